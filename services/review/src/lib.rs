//! The review web application
