//! The graph in lines, and for other programs to draw: Graphviz and Mermaid.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::{Graph, Node};
use crate::output::{Paint, Tone};

impl Graph {
    /// Nodes by namespace; what is outside last.
    pub(super) fn by_namespace(&self) -> Vec<(&str, Vec<usize>)> {
        let mut namespaces: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (number, node) in self.nodes.iter().enumerate() {
            namespaces.entry(&node.namespace).or_default().push(number);
        }
        let outside = namespaces.remove("");
        namespaces.into_iter().chain(outside.map(|nodes| ("", nodes))).collect()
    }

    /// An edge a line, by where it begins.
    pub(super) fn to_text(&self, paint: Paint) -> String {
        let name = |number: usize| {
            let node = &self.nodes[number];
            let title: String = title(node).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            if node.namespace.is_empty() { title } else { format!("{}/{title}", node.namespace) }
        };
        let mut edges: Vec<_> = self.edges.iter().map(|edge| (name(edge.from), name(edge.to), edge)).collect();
        edges.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
        let from_width = edges.iter().map(|(from, ..)| from.chars().count()).max().unwrap_or(0);
        let to_width = edges.iter().map(|(_, to, _)| to.chars().count()).max().unwrap_or(0);
        let mut text = String::new();
        for (from, to, edge) in &edges {
            let tone = match (edge.by_default, edge.read.ranges().is_empty()) {
                (true, _) => Tone::Quiet,
                (false, false) => Tone::Depends,
                (false, true) => Tone::Good,
            };
            let free = if edge.by_default { "   no policy speaks of it" } else { "" };
            let _ =
                writeln!(text, "{from:from_width$} → {to:to_width$}  {}", paint.paint(tone, &format!("{}{free}", edge.label)));
        }
        if self.left_out > 0 {
            let _ = writeln!(text, "and {} that no policy speaks of (--all)", self.left_out);
        }
        text
    }

    pub(super) fn to_dot(&self) -> String {
        let mut dot = String::from(
            "digraph sluice {\n  rankdir=LR;\n  node [shape=box, style=\"rounded,filled\", fillcolor=\"#f1f3f4\", color=\"#667079\", fontname=\"sans-serif\"];\n  \
             edge [color=\"#0b5c3b\", fontname=\"sans-serif\", fontsize=10];\n",
        );
        for (place, (namespace, nodes)) in self.by_namespace().into_iter().enumerate() {
            if !namespace.is_empty() {
                let _ = writeln!(
                    dot,
                    "  subgraph cluster_{place} {{\n    label={}; color=\"#d9dde0\"; fontname=\"sans-serif\";",
                    dot_text(namespace)
                );
            }
            for number in nodes {
                let node = &self.nodes[number];
                let looks = if namespace.is_empty() {
                    ", shape=ellipse"
                } else if node.open.is_empty() {
                    ""
                } else {
                    ", style=\"rounded,filled,dashed\""
                };
                let _ = writeln!(dot, "    n{number} [label={}{looks}];", dot_text(&title(node)));
            }
            if !namespace.is_empty() {
                dot.push_str("  }\n");
            }
        }
        for edge in &self.edges {
            let looks = match (edge.by_default, edge.read.ranges().is_empty()) {
                (true, _) => ", color=\"#94a0a8\", style=dashed",
                (false, false) => ", color=\"#b87700\"",
                (false, true) => "",
            };
            let _ = writeln!(dot, "  n{} -> n{} [label={}{looks}];", edge.from, edge.to, dot_text(&edge.label));
        }
        dot + "}\n"
    }

    pub(super) fn to_mermaid(&self) -> String {
        let mut text = String::from("flowchart LR\n");
        for (place, (namespace, nodes)) in self.by_namespace().into_iter().enumerate() {
            if !namespace.is_empty() {
                let _ = writeln!(text, "  subgraph s{place}[\"{}\"]", mermaid_text(namespace));
            }
            for number in nodes {
                let title = mermaid_text(&title(&self.nodes[number]));
                let (open, close) = if namespace.is_empty() { ("([", "])") } else { ("[", "]") };
                let _ = writeln!(text, "    n{number}{open}\"{title}\"{close}");
            }
            if !namespace.is_empty() {
                text.push_str("  end\n");
            }
        }
        for edge in &self.edges {
            let arrow = if edge.by_default { "-.->" } else { "-->" };
            let _ = writeln!(text, "  n{} {arrow}|\"{}\"| n{}", edge.from, mermaid_text(&edge.label), edge.to);
        }
        let read: Vec<String> =
            self.edges.iter().enumerate().filter(|(_, e)| !e.read.ranges().is_empty()).map(|(i, _)| i.to_string()).collect();
        if !read.is_empty() {
            let _ = writeln!(text, "  linkStyle {} stroke:#b87700", read.join(","));
        }
        text
    }
}

/// `web (3 pods)`
fn title(node: &Node) -> String {
    if node.pods > 1 && !node.name.contains(" pods)") { format!("{} ({} pods)", node.name, node.pods) } else { node.name.clone() }
}

/// A quoted string of DOT that stands for `text`: a backslash would begin an escape, and nothing else does.
fn dot_text(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push(' '),
            // Graphviz reads entities in labels.
            '&' => quoted.push_str("&amp;"),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// Text inside quotes of Mermaid, which has entity codes for what it would take for its own.
fn mermaid_text(text: &str) -> String {
    let mut quoted = String::new();
    for c in text.chars() {
        match c {
            c if c.is_control() => quoted.push(' '),
            '"' | '#' | '<' | '>' | '&' | '`' | '\\' | ';' | '|' | '[' | ']' | '{' | '}' => {
                let _ = write!(quoted, "#{};", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_stay_names() {
        assert_eq!(dot_text("a\"];\\N<b>&\n"), "\"a\\\"];\\\\N<b>&amp; \"");
        assert_eq!(mermaid_text("a\"]<b>`#\n"), "a#34;#93;#60;b#62;#96;#35; ");
    }
}
