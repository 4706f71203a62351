//! The matrix as a picture: Markdown, SVG and HTML, each with who decided.

use std::fmt::Write;

use sluice_policy::source::PodRef;

use super::{Cell, Matrix};
use crate::cluster::{Cluster, Names};
use crate::flow_line::{End, Question};
use crate::markup::escape;

/// What is drawn: a row and a column per group of pods that look alike.
#[derive(Debug)]
pub struct Drawn {
    caption: String,
    names: Vec<String>,
    /// Whether a group is the first of its namespace.
    first: Vec<bool>,
    cells: Vec<Vec<(Cell, String)>>,
}

impl Cell {
    /// A class of the style, and a word.
    const fn looks(self) -> (&'static str, &'static str) {
        match self {
            Self::Allow => ("a", "allowed"),
            Self::Deny => ("d", "denied"),
            Self::L7 => ("l", "judged at L7"),
            Self::Itself => ("s", "the pod itself"),
            Self::NoPath => ("n", "no address of one family"),
        }
    }
}

impl Matrix {
    /// The picture, with what `cluster` says about each pair.
    pub fn draw(&self, cluster: &Cluster) -> Drawn {
        let groups = self.groups();
        let names: Vec<String> = groups.iter().map(|group| self.title(group)).collect();
        let namespace = |name: &str| name.split('/').next().unwrap_or_default().to_owned();
        let first = names.iter().enumerate().map(|(i, name)| i == 0 || namespace(name) != namespace(&names[i - 1])).collect();
        let cell = |from: &Vec<usize>, to: &Vec<usize>| {
            let cell = self.between(from, to);
            let inner = from == to && from.len() > 1;
            let (source, destination) = (&self.pods[from[0]], &self.pods[to[usize::from(inner)]]);
            let why = match cell {
                Cell::Itself | Cell::NoPath => cell.looks().1.to_owned(),
                _ => self.why(cluster, source, destination).unwrap_or_default(),
            };
            (cell, format!("{source} → {destination}: {why}"))
        };
        let cells = groups.iter().map(|from| groups.iter().map(|to| cell(from, to)).collect()).collect();
        let port = if self.protocol.has_ports() { format!("{}/", self.port) } else { String::new() };
        Drawn { caption: format!("{port}{}", self.protocol.to_string().to_lowercase()), names, first, cells }
    }

    /// The verdict between two pods, and who is behind it.
    fn why(&self, cluster: &Cluster, from: &str, to: &str) -> Option<String> {
        let end = |name: &str| {
            let (namespace, name) = name.split_once('/')?;
            Some(End::Pod(PodRef { namespace: namespace.into(), name: name.into() }, None))
        };
        let (from, to) = (end(from)?, end(to)?);
        let question = Question { from, to, port: self.port, protocol: self.protocol, icmp: None, contents: None };
        let answer = cluster.judge(&question, &Names::default()).ok()?.answer;
        let halves = [("egress", &answer.egress), ("ingress", &answer.ingress)];
        // An allow needs both ends; anything else is one end's doing.
        let telling = halves.into_iter().filter(|(_, half)| half.verdict == answer.verdict);
        let words: Vec<String> = telling
            .map(|(direction, half)| {
                let by: Vec<String> = half.by.as_slice().iter().map(ToString::to_string).collect();
                let by = if by.is_empty() { String::new() } else { format!(" {}", by.join(", ")) };
                format!("{direction} {}{by}", half.reason)
            })
            .collect();
        Some(format!("{}, {}", answer.verdict, words.join("; ")))
    }
}

/// Colours of both looks, light and dark. The marks say the same without them.
const COLOURS: &str = "\
:root{--bg:#fbfbfa;--fg:#1d2327;--soft:#667079;--line:#d9dde0;--head:#f1f3f4;--a:#cdeadb;--af:#0b5c3b;--d:#f9e3e0;--df:#9a2b1e;--l:#fbe6b3;--lf:#7a5200;--s:#e6e9eb}
@media(prefers-color-scheme:dark){:root{--bg:#14181b;--fg:#e4e8ea;--soft:#94a0a8;--line:#2e363c;--head:#1c2226;--a:#12402d;--af:#7fe0b2;--d:#4a1f1a;--df:#ff9e90;--l:#4a3608;--lf:#ffd166;--s:#2a3137}}";

const SANS: &str = "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',sans-serif";

impl Drawn {
    pub fn to_markdown(&self) -> String {
        let cell = |text: &str| {
            text.replace('\\', "\\\\").replace('|', "\\|").replace(['\n', '\r'], " ").replace('<', "&lt;").replace('[', "\\[")
        };
        let mut text = format!(
            "**{}**, rows: from, columns: to — `.` allowed, `X` denied, `L` judged at L7, `#` itself\n\n|  |",
            self.caption
        );
        for number in 1..=self.names.len() {
            let _ = write!(text, " {number} |");
        }
        let _ = write!(text, "\n|---|{}", "---|".repeat(self.names.len()));
        for (row, name) in self.names.iter().enumerate() {
            let _ = write!(text, "\n| {} {} |", row + 1, cell(name));
            for (cell, _) in &self.cells[row] {
                let _ = write!(text, " {} |", cell.mark().0.trim());
            }
        }
        text + "\n"
    }

    pub fn to_svg(&self) -> String {
        const SIDE: usize = 26;
        const LETTER: usize = 7;
        let count = self.names.len();
        let longest = self.names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
        // Columns lean, so that their names take less height than length.
        let (left, top) = (longest * LETTER + 24, longest * LETTER * 7 / 10 + 64);
        let (width, height) = (left + count * SIDE + top * 7 / 10 + 16, top + count * SIDE + 16);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" font-family=\"{SANS}\" font-size=\"12\">\n<style>\n{COLOURS}\n\
             text{{fill:var(--fg)}} .q{{fill:var(--soft)}} .h{{font-size:15px;font-weight:600}} .m{{font-size:11px;text-anchor:middle;font-weight:600}}\n\
             .a{{fill:var(--a)}} .d{{fill:var(--d)}} .l{{fill:var(--l)}} .s{{fill:var(--s)}} .n{{fill:none}} .ta{{fill:var(--af)}} .td{{fill:var(--df)}} .tl{{fill:var(--lf)}} .ts{{fill:var(--soft)}}\n\
             .b{{stroke:var(--line);stroke-width:1.5}}\n</style>\n<rect width=\"{width}\" height=\"{height}\" fill=\"var(--bg)\"/>\n"
        );
        let _ = writeln!(
            svg,
            "<text class=\"h\" x=\"16\" y=\"28\">{}</text><text class=\"q\" x=\"16\" y=\"46\">rows: from, columns: to</text>",
            escape(&self.caption)
        );
        for (number, name) in self.names.iter().enumerate() {
            let (x, y) = (left + number * SIDE, top + number * SIDE);
            if self.first[number] && number > 0 {
                let (right, bottom) = (left + count * SIDE, top + count * SIDE);
                let _ =
                    writeln!(svg, "<path class=\"b\" d=\"M16 {line}H{right}M{x0} {top}V{bottom}\"/>", line = y - 1, x0 = x - 1);
            }
            let name = escape(name);
            let (tx, ty) = (x + SIDE / 2, top - 8);
            let _ = writeln!(svg, "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{name}</text>", left - 8, y + SIDE * 2 / 3);
            let _ = writeln!(svg, "<text transform=\"translate({tx} {ty}) rotate(-45)\">{name}</text>");
        }
        for (row, cells) in self.cells.iter().enumerate() {
            for (column, (cell, why)) in cells.iter().enumerate() {
                let (x, y) = (left + column * SIDE, top + row * SIDE);
                let ((class, _), mark, side) = (cell.looks(), cell.mark().0, SIDE - 2);
                let mark = if *cell == Cell::Itself { "" } else { mark.trim() };
                let _ = writeln!(
                    svg,
                    "<g><title>{}</title><rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{side}\" height=\"{side}\" rx=\"4\"/>\
                     <text class=\"m t{class}\" x=\"{}\" y=\"{}\">{}</text></g>",
                    escape(why),
                    x + side / 2,
                    y + side / 2 + 4,
                    escape(&mark.replace('.', "✓").replace('X', "✕")),
                );
            }
        }
        svg + "</svg>\n"
    }

    pub fn to_html(&self) -> String {
        let caption = escape(&self.caption);
        let counts = [Cell::Allow, Cell::L7, Cell::Deny].map(|wanted| {
            let count = self.cells.iter().flatten().filter(|(cell, _)| *cell == wanted).count();
            let (class, word) = wanted.looks();
            format!("<span class=\"key {class}\">{}</span> {word} <b>{count}</b>", sign(wanted))
        });
        let mut html = format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n<title>{caption}: who reaches whom</title>\n<style>\n{COLOURS}\n{}</style>\n</head>\n<body>\n\
             <header><h1>{caption}</h1><p>rows: from, columns: to</p><p class=\"keys\">{}</p>\
             <input id=\"filter\" type=\"search\" placeholder=\"Filter by name\" aria-label=\"Filter by name\"><label><input id=\"only\" type=\"checkbox\"> rows only</label></header>\n<div id=\"wrap\"><table><thead><tr><th></th>",
            PAGE_STYLE.replace("SANS", SANS),
            counts.join(" &nbsp; "),
        );
        for (column, name) in self.names.iter().enumerate() {
            let edge = if self.first[column] { " class=\"e\"" } else { "" };
            let _ = write!(html, "<th{edge} title=\"{0}\"><span>{0}</span></th>", escape(name));
        }
        html.push_str("</tr></thead>\n<tbody>\n");
        for (row, name) in self.names.iter().enumerate() {
            let edge = if self.first[row] { " class=\"f\"" } else { "" };
            let _ = write!(html, "<tr{edge}><th>{}</th>", escape(name));
            for (column, (cell, why)) in self.cells[row].iter().enumerate() {
                let edge = if self.first[column] { " e" } else { "" };
                let _ = write!(html, "<td class=\"{}{edge}\" title=\"{}\">{}</td>", cell.looks().0, escape(why), sign(*cell));
            }
            html.push_str("</tr>\n");
        }
        html.push_str("</tbody></table></div>\n<footer id=\"why\">Point at a cell to see who decided.</footer>\n<script>\n");
        html.push_str(PAGE_SCRIPT);
        html + "</script>\n</body>\n</html>\n"
    }
}

/// The mark in a picture.
const fn sign(cell: Cell) -> &'static str {
    match cell {
        Cell::Allow => "✓",
        Cell::Deny => "✕",
        Cell::L7 => "L7",
        Cell::Itself | Cell::NoPath => "",
    }
}

const PAGE_STYLE: &str = "\
*{box-sizing:border-box}html,body{height:100%}body{margin:0;background:var(--bg);color:var(--fg);font:13px/1.4 SANS;display:flex;flex-direction:column}
header{display:flex;flex-wrap:wrap;gap:6px 20px;align-items:center;padding:12px 20px;border-bottom:1px solid var(--line)}
h1{font-size:18px;margin:0}header p{margin:0;color:var(--soft)}.keys b{color:var(--fg)}
.key{display:inline-block;min-width:22px;padding:1px 4px;text-align:center;border-radius:4px;font-weight:600;font-size:11px}
input[type=search]{margin-left:auto;padding:6px 10px;border:1px solid var(--line);border-radius:6px;background:var(--head);color:inherit;font:inherit;min-width:220px}
label{color:var(--soft)}#wrap{flex:1;overflow:auto;padding:0 20px 20px 0}
table{border-collapse:separate;border-spacing:2px}th{font-weight:400;white-space:nowrap;background:var(--bg)}
thead th{position:sticky;top:0;z-index:2;height:190px;vertical-align:bottom;padding:8px 0;min-width:26px;max-width:26px}
thead th span{writing-mode:vertical-rl;transform:rotate(180deg);max-height:176px;overflow:hidden;text-overflow:ellipsis;display:inline-block}
thead th:first-child{left:0;z-index:3;max-width:none}
tbody th{position:sticky;left:0;z-index:1;text-align:right;padding:0 8px 0 20px}
td{width:26px;min-width:26px;height:26px;text-align:center;border-radius:4px;font-weight:600;font-size:11px;cursor:default}
.a{background:var(--a);color:var(--af)}.d{background:var(--d);color:var(--df)}.l{background:var(--l);color:var(--lf)}.s{background:var(--s)}
.e{border-left:2px solid var(--line)}.f>*{border-top:2px solid var(--line)}
tr:hover th,th.on{color:var(--fg);font-weight:600}td:hover{outline:2px solid var(--fg)}tbody th,thead th{color:var(--soft)}
footer{padding:10px 20px;border-top:1px solid var(--line);background:var(--head);min-height:40px}
";

const PAGE_SCRIPT: &str = "\
const table=document.querySelector('table'),rows=[...table.tBodies[0].rows],heads=[...table.tHead.rows[0].cells],why=document.getElementById('why');
const filter=document.getElementById('filter'),only=document.getElementById('only');
function show(){const words=filter.value.toLowerCase().split(/\\s+/).filter(Boolean);
const fits=text=>!words.length||words.some(word=>text.toLowerCase().includes(word));
const columns=heads.map((head,i)=>i===0||only.checked||fits(head.textContent));
heads.forEach((head,i)=>head.hidden=!columns[i]);
for(const row of rows){row.hidden=!fits(row.cells[0].textContent);[...row.cells].forEach((cell,i)=>cell.hidden=!columns[i]);}}
filter.addEventListener('input',show);only.addEventListener('change',show);
table.addEventListener('mouseover',event=>{const cell=event.target.closest('td');heads.forEach(head=>head.classList.remove('on'));
if(cell){heads[cell.cellIndex].classList.add('on');why.textContent=cell.title;}});
";
