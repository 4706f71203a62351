//! What a proxy says at its admin address.

use std::time::Duration;

use anyhow::{Context, bail};
use serde::de::DeserializeOwned;

/// The proxy itself gives up after 5 s.
const PATIENCE: Duration = Duration::from_secs(8);

/// Asks the proxy at `admin` (HOST:PORT) for `path`.
pub(crate) fn ask<T: DeserializeOwned>(admin: &str, path: &str) -> anyhow::Result<T> {
    let url = format!("http://{admin}{path}");
    let agent: ureq::Agent =
        ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).http_status_as_error(false).proxy(None).build().into();
    let mut answer = agent
        .get(&url)
        .call()
        .with_context(|| format!("ask the proxy at {admin} (is sluice-proxy running here? --admin says where it answers)"))?;
    let body = answer.body_mut().read_to_string().with_context(|| format!("read the answer of {url}"))?;
    if answer.status() != 200 {
        bail!("{url} answers {}: {}", answer.status(), body.trim());
    }
    serde_json::from_str(&body).with_context(|| format!("{url} is no proxy of Sluice: its answer can't be read"))
}
