//! Nodes and pods as network namespaces, without root: for tests, the demo and load tests.
