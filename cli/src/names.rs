//! `sluice names`: what the pods of a node have learned from DNS.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use sluice_policy::source::plain_name;

use crate::admin;
use crate::args::NamesArgs;
use crate::config::Settings;
use crate::counters::Named;
use crate::output::{Paint, Tone, print};

/// What the proxy answers.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    pub node: String,
    pub names: Vec<Line>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The pod's own address.
    pub ip: IpAddr,
    pub name: String,
    pub address: IpAddr,
    pub seconds_left: u64,
    /// The rules that open the address by the name.
    pub rules: Vec<Named>,
    /// Rules name the name, and none takes this address: it is private, or of the cluster.
    pub private: bool,
}

impl Line {
    fn who(&self) -> String {
        match (&self.namespace, &self.pod) {
            (Some(namespace), Some(pod)) => format!("{namespace}/{pod}"),
            _ => self.ip.to_string(),
        }
    }
}

/// Asks the proxy and prints; returns the exit status.
pub fn run(args: &NamesArgs, settings: &Settings) -> anyhow::Result<u8> {
    let mut names: Names = admin::ask(&args.admin, "/names")?;
    let of_pod = |line: &Line| args.pod.as_ref().is_none_or(|pod| line.who() == *pod || line.ip.to_string() == *pod);
    let wanted = args.name.as_deref().map(plain_name);
    names.names.retain(|line| of_pod(line) && wanted.as_ref().is_none_or(|name| line.name == *name));
    print(settings, &names, |paint| Ok(args.output.form(|| names.to_text(paint))))?;
    Ok(0)
}

impl Names {
    /// A line for each address of each name of each pod.
    pub fn to_text(&self, paint: Paint) -> String {
        if self.names.is_empty() {
            return format!(
                "{}: nothing is known: pods with rules by name (fqdns, domainNames, dns) teach what they look up\n",
                self.node
            );
        }
        let width = |title: &str, of: &dyn Fn(&Line) -> usize| self.names.iter().map(of).max().unwrap_or(0).max(title.len());
        let pod = width("POD", &|line| line.who().len());
        let name = width("NAME", &|line| line.name.len());
        let address = width("ADDRESS", &|line| line.address.to_string().len());
        let head = format!("{:<pod$}  {:<name$}  {:<address$}  {:>7}  RULE", "POD", "NAME", "ADDRESS", "LEFT");
        let mut text = format!("{}\n", paint.paint(Tone::Strong, &head));
        for line in &self.names {
            let (tone, rules) = match line.rules.as_slice() {
                [] if line.private => (Tone::Bad, "none: private, or of the cluster (allowPrivate)".to_owned()),
                [] => (Tone::Depends, "none by this name".to_owned()),
                [one] => (Tone::Good, one.to_string()),
                [one, others @ ..] => (Tone::Good, format!("{one} and {} more", others.len())),
            };
            let left = format!("{} s", line.seconds_left);
            text += &format!(
                "{:<pod$}  {:<name$}  {:<address$}  {left:>7}  {}\n",
                line.who(),
                line.name,
                line.address.to_string(),
                paint.paint(tone, &rules)
            );
        }
        text
    }
}
