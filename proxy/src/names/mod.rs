//! What the pods' look-ups have taught: which names an address has, for which pod, and for how long.
//!
//! ```text
//! dns::Answer --Names::learn--> Lesson --> kernel's sets --ack--> Journal::append, Names::confirm --> the answer goes to the pod
//!                                 |-- empty: the kernel holds what it says ---------------------------------^
//!                                 `-- prolongs: it does, but hardly longer: the kernel is told meanwhile ---^
//! a connection -> Names::names_of -> the engine
//! a start -> Journal::open -> Names::restore -> Names::of_pod -> kernel's sets
//! ```
//!
//! Nothing here speaks to the kernel or holds a socket, and the store has no clock: [`Moment`] is a parameter. Which addresses may be
//! learned at all (rebinding) is for the caller to say, who leaves the others out of the answer.
//!
//! **Time.** What is learned ends three quarters of a second after its answer says, rounded up to a quarter: the answer's TTL within its floor
//! and ceiling, plus the grace time, plus that. It is the same moment for the store, the kernel, the listing and the journal. So an address is
//! never closed before the pod takes it to be, which has its answer a little later than we, and at most a second after it says. An answer that
//! comes again within that time needs nothing that the kernel doesn't hold and the journal doesn't say. It leaves at once, and if no next one
//! could, the kernel is told in the background. So a name with a constant TTL that is looked up four times a second or more waits for the kernel once.

mod flow;
mod journal;
mod late;
mod lesson;
mod listing;
mod metrics;
mod moment;
mod pod;
mod store;

pub use journal::{BootId, Entry, Journal, WriteError, path};
pub use late::Late;
pub use lesson::{Displaced, Forgotten, Learned, LearnedName, Lesson};
pub use listing::{Listed, listing};
pub use metrics::NamesMetrics;
pub use moment::Moment;
pub use store::{Known, Limits, Names};
