//! Requests as a bystander reads them: they have gone on already, and whatever is said of them only becomes an audit's record.

mod http1;
mod http2;

use ::http::request::Parts;
use sluice_policy::flow::Request as FlowRequest;

use super::exchange::record_of;
use super::target::read_target;
use crate::connection::Conn;
use crate::judge::Forwarded;

pub(crate) use http1::Requests;
pub(crate) use http2::Streams;

/// The rest of a connection has no certain reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable;

/// What Audit policies make of a request, in the form in which it would be judged.
fn judge(conn: &Conn, parts: &Parts) -> Result<(), Unreadable> {
    let (request, _) = read_target(parts).map_err(|_| Unreadable)?;
    let table = conn.table();
    let fields = Forwarded(&parts.headers);
    let http = request.as_http(&fields);
    let record = || record_of(conn, &table, conn.dataplane.ids.next(), parts, &request);
    conn.audit(&table, Some(FlowRequest::Http(&http)), record);
    Ok(())
}
