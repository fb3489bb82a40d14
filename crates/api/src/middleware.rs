//! What happens to every request around its handler.

pub mod admit;
pub mod body;
pub mod observe;
pub mod panics;
