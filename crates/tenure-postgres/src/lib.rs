//! The PostgreSQL engine of tenure: locks beside the data, with transactions that only a holder can commit.
#![forbid(unsafe_code)]
