//! Other programs: the hub, loaders of models, build servers, other signers.

#[cfg(unix)]
mod contrib;
mod datasets;
mod headers;
mod hub;
#[cfg(unix)]
mod oms;
mod published;
mod served;
