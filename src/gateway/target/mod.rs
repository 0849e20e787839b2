//! Who answers. [`local`] turns a prompt into text events of one of our engines ([`registry`]), of which a model may
//! have several ([`replicas`]), once [`text_queue`] has tokenized it; [`remote`] asks an upstream over
//! [`http_client`]; [`adaptive`] finds out what each of them bears, and a [`breaker`] leaves alone what keeps failing.

pub mod adaptive;
pub mod breaker;
pub mod http_client;
pub mod local;
pub mod registry;
pub mod remote;
pub mod replicas;
pub mod text_queue;
