//! Objects in, one snapshot per node out: `watch -> world -> plan -> publish`.
