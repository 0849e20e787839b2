//! The server: [`listen`] takes connections, over [`tls`] or not, [`server`] leads their requests past the
//! [`browser`] check, [`cors`] and keys to the endpoints; [`admin`] is the operator's API; [`openapi`] describes
//! all of it, and [`docs`] shows that.

pub mod admin;
pub mod browser;
pub mod cors;
pub mod docs;
pub mod listen;
pub mod openapi;
pub mod server;
pub mod tls;
