//! The HTTP side of a process: one listener, TLS, who may ask what, and how often.
//!
//! Stands between the network and the services' routes: the binary merges those into one application, and [`Front`]
//! serves it. Every request passes the gate before a route sees it and before any of its body is read.
//!
//! Deliberately absent: users and roles (a token is a program's or a person's, and has a name), storing anything of a
//! token but its SHA-256, and HTTP/2, which none of the clients needs and whose attacks nobody here wants to follow.

mod certificate;
mod config;
mod connections;
mod gate;
mod limits;
mod serve;
mod session;
mod sites;
mod tls;
mod tokens;

pub use config::{Config, ConfigError, Permission, TokenConfig};
pub use serve::{Exposure, Front, FrontError};
pub use tokens::{NewToken, NoRandomness};
