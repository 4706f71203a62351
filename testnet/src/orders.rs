//! `orderservice.OrderService` of `proto/orderservice.proto`: a gRPC server in any namespace, and clients from any.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::pin::Pin;
use std::time::Duration;

use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::codegen::http::Uri;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::netns::Netns;

/// What `proto/orderservice.proto` says.
pub mod wire {
    tonic::include_proto!("orderservice");
}

use wire::order_service_client::OrderServiceClient;
use wire::order_service_server::{OrderService, OrderServiceServer};
use wire::{Order, OrderRequest, Summary};

/// Between two orders of `WatchOrders`.
const WATCH_PAUSE: Duration = Duration::from_millis(20);

type Orders = Pin<Box<dyn Stream<Item = Result<Order, Status>> + Send>>;

#[derive(Debug)]
struct Shop;

#[tonic::async_trait]
impl OrderService for Shop {
    type WatchOrdersStream = Orders;
    type TradeStream = Orders;

    async fn get_order(&self, request: Request<OrderRequest>) -> Result<Response<Order>, Status> {
        Ok(Response::new(order(request.get_ref().number)))
    }

    async fn delete_order(&self, request: Request<OrderRequest>) -> Result<Response<Order>, Status> {
        Ok(Response::new(order(request.get_ref().number)))
    }

    async fn watch_orders(&self, request: Request<OrderRequest>) -> Result<Response<Orders>, Status> {
        let OrderRequest { number, count } = request.into_inner();
        let last = if count == 0 { u64::MAX } else { number.saturating_add(count - 1) };
        let orders = tokio_stream::iter((number..=last).map(|number| Ok(order(number))));
        Ok(Response::new(Box::pin(orders.throttle(WATCH_PAUSE))))
    }

    async fn create_orders(&self, request: Request<Streaming<Order>>) -> Result<Response<Summary>, Status> {
        let mut arriving = request.into_inner();
        let mut orders = 0;
        while arriving.message().await?.is_some() {
            orders += 1;
        }
        Ok(Response::new(Summary { orders }))
    }

    async fn trade(&self, request: Request<Streaming<Order>>) -> Result<Response<Orders>, Status> {
        Ok(Response::new(Box::pin(request.into_inner())))
    }
}

fn order(number: u64) -> Order {
    Order { number, goods: format!("{number} lamps") }
}

/// Serves orders to whoever connects to `listener`, on a thread of its own, until this process ends.
pub fn serve(listener: TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let runtime = runtime()?;
    std::thread::Builder::new().name("orders".to_owned()).spawn(move || {
        runtime.block_on(async {
            let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
            let service = OrderServiceServer::new(Shop);
            // How its connections end is the clients' matter.
            let _ = Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)).await;
        });
    })?;
    Ok(())
}

/// A client on one connection, which is never opened again.
///
/// # Errors
///
/// The connection could not be used.
pub async fn connect(stream: TcpStream) -> Result<OrderServiceClient<Channel>, tonic::transport::Error> {
    Ok(OrderServiceClient::new(channel(stream).await?))
}

async fn channel(stream: TcpStream) -> Result<Channel, tonic::transport::Error> {
    let mut only = Some(stream);
    let connector = tower::service_fn(move |_: Uri| {
        let stream = only.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
        async move {
            let stream = stream?;
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            Ok::<_, io::Error>(hyper_util::rt::TokioIo::new(tokio::net::TcpStream::from_std(stream)?))
        }
    });
    Endpoint::from_static("http://orders").connect_with_connector(connector).await
}

/// How a call ended, as its client saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallEnd {
    /// The number of the status in gRPC: 0 is OK.
    pub status: i32,
    pub message: String,
    /// `x-sluice-id` of the answer.
    pub sluice_id: Option<String>,
}

/// Calls `SERVICE/METHOD` at `to` from inside `ns`, with one empty message, and reads the answer to its end or up to its first
/// message.
///
/// # Errors
///
/// There was no connection within `patience`.
pub fn call(ns: &Netns, source: Option<IpAddr>, to: SocketAddr, method: &str, patience: Duration) -> io::Result<CallEnd> {
    let stream = ns.tcp_connect(source, to, patience)?;
    let path = PathAndQuery::try_from(format!("/{method}")).map_err(io::Error::other)?;
    let called = async {
        let channel = channel(stream).await.map_err(|error| Status::from_error(error.into()))?;
        let mut client = tonic::client::Grpc::new(channel);
        client.ready().await.map_err(|error| Status::from_error(error.into()))?;
        let codec = tonic_prost::ProstCodec::<OrderRequest, Order>::default();
        let answer = client.server_streaming(Request::new(OrderRequest::default()), path, codec).await?;
        answer.into_inner().message().await.map(drop)
    };
    let ended = runtime()?.block_on(async { tokio::time::timeout(patience, called).await });
    let status = match ended {
        Ok(Ok(())) => Status::new(Code::Ok, ""),
        Ok(Err(status)) => status,
        Err(_) => Status::deadline_exceeded("no answer in time"),
    };
    let id = status.metadata().get("x-sluice-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
    Ok(CallEnd { status: status.code().into(), message: status.message().to_owned(), sluice_id: id })
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
