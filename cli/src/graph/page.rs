//! The graph as a page of its own: nothing is fetched, and all that is drawn comes from [`PAGE`]'s own script.

use super::Graph;
use crate::markup::script_json;

const PAGE: &str = include_str!("page.html");

impl Graph {
    pub(super) fn to_html(&self) -> anyhow::Result<String> {
        // Names of pods are data, and stay data: what is in the script is JSON, and the script makes text of it.
        Ok(PAGE.replacen("\"GRAPH\"", &script_json(self)?, 1))
    }
}
