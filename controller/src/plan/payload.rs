//! The bytes of an update, and what becomes of a policy that is too large for one.

use std::sync::Arc;

use bytes::Bytes;
use sluice_feed::CHANGE_LIMIT_BYTES;
use sluice_feed::changes::{self, EncodeError};
use sluice_policy::Direction;
use sluice_policy::snapshot::{Change, Policy, Rule};
use sluice_policy::source::Action;

/// Encodes a list. A policy beyond the limit of one change is closed: its subjects stay isolated, it allows nothing, and if it
/// denies anything in a direction it denies everything there.
pub(super) fn encode(list: &[Change]) -> Result<Bytes, EncodeError> {
    match changes::encode(list) {
        Ok(bytes) => Ok(bytes.into()),
        Err(EncodeError::ChangeTooLarge { .. }) => {
            let bounded: Vec<Change> = list.iter().map(bounded).collect();
            changes::encode(&bounded).map(Bytes::from)
        }
        Err(error) => Err(error),
    }
}

fn bounded(change: &Change) -> Change {
    match change {
        Change::PutPolicy(id, policy) if changes::encoded_len(change) > CHANGE_LIMIT_BYTES => {
            Change::PutPolicy(*id, Arc::new(closed(policy)))
        }
        Change::Audit(change) => Change::Audit(Box::new(bounded(change))),
        other => other.clone(),
    }
}

fn closed(policy: &Policy) -> Policy {
    let denies = |direction| policy.rules.iter().any(|rule| rule.direction == direction && rule.action == Action::Deny);
    let deny = |direction: Direction| Rule {
        direction,
        path: direction.as_str().into(),
        action: Action::Deny,
        peers: None,
        ports: None,
        l7: None,
    };
    let rules = Direction::BOTH.into_iter().filter(|direction| denies(*direction)).map(deny).collect();
    Policy { rules, ..policy.clone() }
}
