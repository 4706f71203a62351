//! What rules say about contents.

use super::build::{Property, Schema};
use crate::bounds::{MAX_CONDITIONS, MAX_EXACT_BYTES, MAX_NAME_BYTES, MAX_RULE_ITEMS};
use crate::dns::TYPES;
use crate::fqdn::MAX_NAME;

/// The longest regular expression.
const PATTERN: usize = sluice_policy::http::PATTERN_MAX_BYTES;

fn pattern(description: &str) -> Schema {
    Schema::text(description).longest(PATTERN)
}

pub(super) fn http() -> Schema {
    let item = Schema::object(
        "Requests: AND over the fields.",
        [
            ("method", pattern("A regular expression that the whole method matches: GET|HEAD.")),
            ("path", pattern("What the canonical path must be, without the query; how it is read, pathType says.")),
            (
                "pathType",
                Schema::word(
                    "Regex: the whole path matches. Exact: it is this text. Prefix: it is this path or below it, /a is /a and /a/b, but not /ab.",
                    &["Regex", "Exact", "Prefix"],
                )
                .default("Regex"),
            ),
            ("host", pattern("A regular expression that the whole host matches, without the port, in any letter case.")),
            ("headers", conditions("Header fields, all of which must be so.")),
            ("query", conditions("Parameters of the query, all of which must be so.")),
        ],
    )
    .keeps_unknown()
    .rule_of(".pathType", "!has(self.pathType) || self.pathType != 'Exact' || has(self.path)", "Exact of no path")
    .rule_of(".pathType", "!has(self.pathType) || self.pathType != 'Prefix' || has(self.path)", "Prefix of no path");
    items("HTTP requests, over TCP: any of these. Without this field contents are not looked at.", item)
}

pub(super) fn grpc() -> Schema {
    let item = Schema::object(
        "Calls: AND over the fields.",
        [
            (
                "service",
                Schema::text("The service with its package: orderservice.OrderService.")
                    .longest(MAX_NAME_BYTES)
                    .with("pattern", r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$"),
            ),
            (
                "method",
                Schema::text("The method's name; * or absent: all of the service.")
                    .longest(MAX_NAME_BYTES)
                    .with("pattern", r"^(\*|[A-Za-z_][A-Za-z0-9_]*)$"),
            ),
            ("metadata", conditions("Fields of the call's metadata, all of which must be so.")),
        ],
    )
    .required(&["service"])
    .keeps_unknown();
    items("gRPC calls: any of these. What is not gRPC matches none.", item)
}

pub(super) fn tls() -> Schema {
    let name = Schema::text("A name, or *. before one: one or more labels.").longest(253);
    Schema::object(
        "TLS connections, by the name that the client asks for. TLS is not opened.",
        [("serverNames", Schema::list("Any of these names.", MAX_RULE_ITEMS, name).at_least_one().atomic())],
    )
    .required(&["serverNames"])
    .keeps_unknown()
}

pub(super) fn dns() -> Schema {
    let names: Vec<&str> = TYPES.iter().map(|(name, _)| *name).collect();
    let types = Schema::list("Types of records. Absent: all.", TYPES.len(), Schema::word("The name of a type: A, AAAA.", &names))
        .at_least_one()
        .atomic();
    let item = name("Look-ups: AND over the fields, of which exactly one is a name or a pattern of names.", [("types", types)]);
    items(
        "Look-ups of names, over UDP and TCP: any of these. Without ports they are those to port 53. This version reads none, so an Allow \
         matches nothing, and a Deny all that its ports match.",
        item,
    )
}

/// Something with a name, and what else it has.
pub(super) fn name<const N: usize>(description: &str, more: [Property; N]) -> Schema {
    // With a final dot.
    let longest = MAX_NAME + 1;
    let name = [
        ("matchName", Schema::text("The name, in any letter case, with a final dot or without.").longest(longest)),
        (
            "matchPattern",
            Schema::text(
                "A name in which * stands for any part of one label; **. in front is one label or more; * alone is every name.",
            )
            .longest(longest),
        ),
    ];
    Schema::object(description, name.into_iter().chain(more)).keeps_unknown().exactly_one(&["matchName", "matchPattern"])
}

fn items(description: &str, item: Schema) -> Schema {
    Schema::list(description, MAX_RULE_ITEMS, item).at_least_one().atomic()
}

fn conditions(description: &str) -> Schema {
    let condition = Schema::object(
        "One condition: exactly one of exact, regex, present and absent.",
        [
            ("name", Schema::text("The name, for header fields in any letter case.").longest(MAX_NAME_BYTES)),
            ("exact", Schema::text("The value is this text.").longest(MAX_EXACT_BYTES)),
            ("regex", pattern("A regular expression that the whole value matches.")),
            ("present", Schema::boolean("true: it is there, whatever its value.").only_true()),
            ("absent", Schema::boolean("true: it is not there.").only_true()),
            ("not", Schema::boolean("true: the condition must not hold.").default(false)),
        ],
    )
    .required(&["name"])
    .keeps_unknown()
    .exactly_one(&["exact", "regex", "present", "absent"]);
    Schema::list(description, MAX_CONDITIONS, condition).atomic()
}
