//! Label selectors, as Kubernetes has them.

use super::build::Schema;

/// A label selector; `description` says of what.
pub(super) fn selector(description: &str) -> Schema {
    let expression = Schema::object(
        "One requirement.",
        [
            ("key", Schema::text("The label's key.").longest(317)),
            ("operator", Schema::word("How values are compared.", &["In", "NotIn", "Exists", "DoesNotExist"])),
            (
                "values",
                Schema::list(
                    "Values for In and NotIn; none for Exists and DoesNotExist.",
                    1000,
                    Schema::text("A label's value.").longest(63),
                )
                .atomic(),
            ),
        ],
    )
    .required(&["key", "operator"])
    .keeps_unknown();
    Schema::object(
        description,
        [
            (
                "matchLabels",
                Schema::texts_by_name(
                    "Labels that must be there, with these values.",
                    Schema::text("The label's value.").longest(63),
                ),
            ),
            ("matchExpressions", Schema::list("Requirements, all of which must hold.", 100, expression).atomic()),
        ],
    )
    .keeps_unknown()
    .atomic()
}
