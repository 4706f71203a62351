//! The command `sluice`: eval, explain, matrix, demo.
