//! One integration binary; suites as modules.
