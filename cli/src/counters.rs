//! `sluice counters`: what the rules of a node's policies have decided in the kernel.

use serde::{Deserialize, Serialize};

use crate::admin;
use crate::args::CountersArgs;
use crate::config::Settings;
use crate::output::{Paint, Tone, print};

/// What the proxy answers.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    pub node: String,
    pub counters: Vec<Counter>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// `egress` or `ingress`.
    pub direction: String,
    /// `allow`, `inspect`, `deny`, `isolated` or `pass`.
    pub action: String,
    /// The rule; several where one of them decided; for `isolated` the policies that isolate.
    pub by: Vec<Named>,
    pub packets: u64,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    pub kind: String,
    #[serde(default)]
    pub namespace: String,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
}

/// Asks the proxy and prints; returns the exit status.
pub fn run(args: &CountersArgs, settings: &Settings) -> anyhow::Result<u8> {
    let mut counters: Counters = admin::ask(&args.admin, "/counters")?;
    if !args.zero {
        counters.counters.retain(|counter| counter.packets > 0);
    }
    print(settings, &counters, |paint| Ok(args.output.form(|| counters.to_text(paint))))?;
    Ok(0)
}

impl Counters {
    /// A line for each counter, the busiest first.
    pub fn to_text(&self, paint: Paint) -> String {
        if self.counters.is_empty() {
            return format!("{}: no rule has matched yet (--zero lists them all)\n", self.node);
        }
        let mut counters: Vec<&Counter> = self.counters.iter().collect();
        counters.sort_by_key(|counter| std::cmp::Reverse(counter.packets));
        let digits = counters.iter().map(|counter| counter.packets.to_string().len()).max().unwrap_or(0).max("PACKETS".len());
        let mut text =
            format!("{}\n", paint.paint(Tone::Strong, &format!("{:>digits$}  {:<8} {:<7}  RULE", "PACKETS", "ACTION", "SIDE")));
        for Counter { direction, action, by, packets } in counters {
            let tone = match action.as_str() {
                "allow" => Tone::Good,
                "deny" | "isolated" => Tone::Bad,
                _ => Tone::Depends,
            };
            let action = paint.paint(tone, &format!("{action:<8}"));
            text += &format!("{packets:>digits$}  {action} {direction:<7}  {}\n", names(by));
        }
        text
    }
}

fn names(by: &[Named]) -> String {
    match by {
        [] => "(no policy any more)".to_owned(),
        [one] => one.to_string(),
        [one, other] => format!("{one}, {other}"),
        [one, others @ ..] => format!("{one} and {} more", others.len()),
    }
}

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ", self.kind)?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        write!(f, "{}", self.name)?;
        match &self.rule {
            Some(rule) => write!(f, " {rule}"),
            None => Ok(()),
        }
    }
}
