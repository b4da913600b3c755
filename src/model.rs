//! The models: what they answer, and the one file that Rust and Python both load.

pub mod tree;

pub mod forest;
pub mod isolation;

pub mod interval;

pub mod onnx;

pub mod duration;

pub mod rules;
pub mod anomaly;
pub mod shelf;
