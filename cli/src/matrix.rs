//! `sluice matrix`: who reaches whom on one port.

mod drawn;

use std::collections::BTreeMap;

use serde::Serialize;
use sluice_policy::source::PodRef;
use sluice_policy::{Decision, Protocol};

use crate::args::{MatrixArgs, MatrixFormat};
use crate::cluster::{Cluster, Names};
use crate::config::Settings;
use crate::flow_line::{End, Question, port_from_text};
use crate::output::{Form, Paint, Tone, print, terminal_width};

/// Who reaches whom: `cells[i][j]` is the connection from `pods[i]` to `pods[j]`.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Matrix {
    pub port: u16,
    pub protocol: Protocol,
    pub pods: Vec<String>,
    pub cells: Vec<Vec<Cell>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Cell {
    Allow,
    Deny,
    /// Judged by the request.
    L7,
    /// The pod itself: always allowed.
    #[serde(rename = "self")]
    Itself,
    /// The two have no address of one family.
    #[serde(rename = "none")]
    NoPath,
}

impl Cell {
    const fn mark(self) -> (&'static str, Tone) {
        match self {
            Self::Allow => (".", Tone::Good),
            Self::Deny => ("X", Tone::Bad),
            Self::L7 => ("L", Tone::Depends),
            Self::Itself => ("#", Tone::Quiet),
            Self::NoPath => (" ", Tone::Quiet),
        }
    }
}

/// Prints the matrix; returns the exit status.
pub fn run(args: &MatrixArgs, settings: &Settings) -> anyhow::Result<u8> {
    let (port, protocol) = port_from_text(&args.port)?;
    let cluster = Cluster::load_at(&args.manifests.paths, &Names::default(), args.manifests.time());
    cluster.report(settings);
    let matrix = Matrix::of(&cluster, &args.namespace, port, protocol);
    print(settings, &matrix, |paint| {
        Ok(match args.output {
            MatrixFormat::Text => Form::Text(matrix.to_text(paint, terminal_width().unwrap_or(usize::MAX))),
            MatrixFormat::Json => Form::Json,
            MatrixFormat::Yaml => Form::Yaml,
            MatrixFormat::Markdown => Form::Text(matrix.draw(&cluster).to_markdown()),
            MatrixFormat::Svg => Form::Text(matrix.draw(&cluster).to_svg()),
            MatrixFormat::Html => Form::Text(matrix.draw(&cluster).to_html()),
        })
    })?;
    Ok(if cluster.is_whole() { 0 } else { 2 })
}

impl Matrix {
    /// Judges every pair of pods, of `namespaces` alone if any is named.
    pub fn of(cluster: &Cluster, namespaces: &[String], port: u16, protocol: Protocol) -> Self {
        let wanted = |pod: &PodRef| namespaces.is_empty() || namespaces.iter().any(|n| **n == *pod.namespace);
        let pods: Vec<&PodRef> = cluster.live_pods().filter(|pod| wanted(pod)).collect();
        let names = Names::default();
        let cell = |from: &PodRef, to: &PodRef| {
            if from == to {
                return Cell::Itself;
            }
            let question = Question {
                from: End::Pod(from.clone(), None),
                to: End::Pod(to.clone(), None),
                port,
                protocol,
                icmp: None,
                contents: None,
            };
            match cluster.verdict(&question, &names).map(|v| v.decision()) {
                Ok(Decision::Allow) => Cell::Allow,
                Ok(Decision::Deny) => Cell::Deny,
                Ok(Decision::Inspect) => Cell::L7,
                Err(_) => Cell::NoPath,
            }
        };
        let cells = pods.iter().map(|from| pods.iter().map(|to| cell(from, to)).collect()).collect();
        Self { port, protocol, pods: pods.iter().map(ToString::to_string).collect(), cells }
    }

    /// The matrix for people: pods that look alike share a row and a column, columns are numbered as the rows, and a matrix that
    /// is wider than `width` columns comes in parts below each other.
    pub fn to_text(&self, paint: Paint, width: usize) -> String {
        let mut text = String::new();
        let port = if self.protocol.has_ports() { format!("{}/", self.port) } else { String::new() };
        if self.pods.is_empty() {
            return "no pod with an address in these manifests\n".to_owned();
        }
        let groups = self.groups();
        let titles: Vec<String> = groups.iter().map(|g| self.title(g)).collect();
        let digits = groups.len().to_string().len();
        let title_width = titles.iter().map(String::len).max().unwrap_or(0);
        let row_head = digits + 1 + title_width;
        let per_part = (width.saturating_sub(row_head) / (digits + 1)).max(1);
        text.push_str(&format!(
            "{port}{}   rows: from, columns: to   {} allowed  {} denied  {} judged at L7  {} itself\n",
            self.protocol.to_string().to_lowercase(),
            paint.paint(Tone::Good, "."),
            paint.paint(Tone::Bad, "X"),
            paint.paint(Tone::Depends, "L"),
            paint.paint(Tone::Quiet, "#"),
        ));
        for part in (0..groups.len()).collect::<Vec<_>>().chunks(per_part) {
            text.push('\n');
            text.push_str(&" ".repeat(row_head));
            for column in part {
                text.push_str(&format!(" {:>digits$}", column + 1));
            }
            text.push('\n');
            for (row, from) in groups.iter().enumerate() {
                text.push_str(&format!("{:>digits$} {:<title_width$}", row + 1, titles[row]));
                for column in part {
                    let (mark, tone) = self.between(from, &groups[*column]).mark();
                    text.push_str(&" ".repeat(digits));
                    text.push_str(&paint.paint(tone, mark));
                }
                text.push('\n');
            }
        }
        text
    }

    /// The pods that can stand for each other: of one namespace, with equal rows and columns among all others, and with the same
    /// answer between any two of them.
    fn groups(&self) -> Vec<Vec<usize>> {
        let mut alike: BTreeMap<(&str, Vec<Cell2>), Vec<Vec<usize>>> = BTreeMap::new();
        for pod in 0..self.pods.len() {
            let namespace = self.pods[pod].split('/').next().unwrap_or_default();
            let mut counts: Vec<Cell2> = (0..self.pods.len())
                .filter(|other| *other != pod)
                .map(|other| (self.cells[pod][other].mark().0, self.cells[other][pod].mark().0))
                .collect();
            // A coarse key first (order forgotten), so that only likely pods are compared in full.
            counts.sort_unstable();
            let candidates = alike.entry((namespace, counts)).or_default();
            match candidates.iter_mut().find(|group| self.fits(group, pod)) {
                Some(group) => group.push(pod),
                None => candidates.push(vec![pod]),
            }
        }
        let mut groups: Vec<Vec<usize>> = alike.into_values().flatten().collect();
        groups.sort();
        groups
    }

    fn fits(&self, group: &[usize], pod: usize) -> bool {
        let first = group[0];
        let inner = self.cells[first][pod];
        let mutual = group.iter().all(|member| self.cells[*member][pod] == inner && self.cells[pod][*member] == inner);
        let settled = group.len() < 2 || self.cells[group[0]][group[1]] == inner;
        mutual
            && settled
            && (0..self.pods.len()).filter(|other| *other != pod && !group.contains(other)).all(|other| {
                self.cells[first][other] == self.cells[pod][other] && self.cells[other][first] == self.cells[other][pod]
            })
    }

    /// The answer from a group to a group; within one, between two of its pods.
    fn between(&self, from: &[usize], to: &[usize]) -> Cell {
        if from == to && from.len() > 1 { self.cells[from[0]][from[1]] } else { self.cells[from[0]][to[0]] }
    }

    fn title(&self, group: &[usize]) -> String {
        let first = &self.pods[group[0]];
        if group.len() == 1 { first.clone() } else { format!("{first} and {} alike", group.len() - 1) }
    }
}

/// The marks of both directions between two pods.
type Cell2 = (&'static str, &'static str);

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn matrix(pods: &[&str], rows: &[&str]) -> Matrix {
        let cell = |c| match c {
            '.' => Cell::Allow,
            'X' => Cell::Deny,
            'L' => Cell::L7,
            _ => Cell::Itself,
        };
        Matrix {
            port: 80,
            protocol: Protocol::Tcp,
            pods: pods.iter().map(ToString::to_string).collect(),
            cells: rows.iter().map(|row| row.chars().map(cell).collect()).collect(),
        }
    }

    #[test]
    fn small_matrix_is_readable() {
        let m = matrix(&["a/db", "a/web", "b/web"], &["#..", "L#X", "XX#"]);
        expect![[r"
            80/tcp   rows: from, columns: to   . allowed  X denied  L judged at L7  # itself

                    1 2 3
            1 a/db  # . .
            2 a/web L # X
            3 b/web X X #
        "]]
        .assert_eq(&m.to_text(Paint::plain(), usize::MAX));
    }

    #[test]
    fn pods_that_look_alike_share_a_row() {
        let m = matrix(&["a/db", "a/web-1", "a/web-2", "b/web"], &["#XX.", ".#X.", ".X#.", "XXX#"]);
        expect![[r"
            80/tcp   rows: from, columns: to   . allowed  X denied  L judged at L7  # itself

                                  1 2 3
            1 a/db                # X .
            2 a/web-1 and 1 alike . X .
            3 b/web               X X #
        "]]
        .assert_eq(&m.to_text(Paint::plain(), usize::MAX));
    }

    #[test]
    fn a_wide_matrix_comes_in_parts() {
        let m = matrix(&["a/x", "b/x", "c/x"], &["#..", "X#.", "XX#"]);
        let text = m.to_text(Paint::plain(), 10);
        assert!(text.lines().skip(1).all(|line| line.len() <= 10), "{text}");
        assert_eq!(text.matches("1 a/x").count(), 2);
    }
}
