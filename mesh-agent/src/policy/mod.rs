//! From the files in `conf.d` to what the kernel needs: parse, compile, evaluate.

pub mod compile;
pub mod diagnostic;
pub mod eval;
pub mod ids;
pub mod judge;
pub mod model;
pub mod parse;
pub mod schedule;
pub mod source;
mod vip;
