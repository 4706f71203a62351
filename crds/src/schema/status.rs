//! What the controller says of a policy.

use super::build::Schema;

pub(super) fn status() -> Schema {
    let condition = Schema::object(
        "One statement about the policy.",
        [
            ("type", Schema::text("What it is about: Accepted, Programmed, Expired.").longest(316)),
            ("status", Schema::word("Whether it holds.", &["True", "False", "Unknown"])),
            ("reason", Schema::text("The reason in one word.").longest(1024)),
            ("message", Schema::text("The reason in a sentence: object, field, what is wrong and what to do.").longest(32768)),
            ("lastTransitionTime", Schema::text("Since when.").with("format", "date-time")),
            (
                "observedGeneration",
                Schema::text("The generation of the object that it is about.")
                    .with("type", "integer")
                    .with("format", "int64")
                    .with("minimum", 0),
            ),
        ],
    )
    .required(&["type", "status", "reason", "message", "lastTransitionTime"]);
    Schema::object(
        "What became of the policy. The controller writes it.",
        [
            ("conditions", Schema::list("Statements about the policy, by type.", 16, condition).map_by("type")),
            ("programmed", Schema::text("Nodes that have the policy in force, of those that need it: 3/3.")),
            (
                "observedGeneration",
                Schema::text("The generation of the object that all this is about.")
                    .with("type", "integer")
                    .with("format", "int64"),
            ),
        ],
    )
}
