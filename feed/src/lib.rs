//! The messages between the controller and a node, and nothing else.
