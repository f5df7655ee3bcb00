//! The gateway web application
