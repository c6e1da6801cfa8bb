//! What SDKs call: `/gate`, `/execute`, `/check`, `/track`, `/track/batch`, `/cancel` and the rest.

pub mod decision;
pub mod gate;
pub mod health;
pub mod misc;
pub mod number;
pub mod track;
pub mod verify;
