//! What the whole-server tests stand on. The suites are in `tests/tests/`, the torture program in
//! `src/bin/`; both start real server processes, speak to them over real sockets, and kill them.

pub mod churn;
pub mod fuzz;
pub mod history;
pub mod linear;
pub mod model;
pub mod soak;
pub mod support;
pub mod torture;
