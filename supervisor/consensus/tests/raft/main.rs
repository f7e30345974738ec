//! Tests of whole groups of nodes, one program: openraft's generic code is compiled and linked once for all of them.

mod common;
mod difference;
mod emptied;
mod failures;
mod group;
