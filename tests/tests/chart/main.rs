//! The Helm chart: what it is generated from, what it refuses, and that the operator runs with the rights that it gives, and no others.

mod generated;
mod helm;
mod lifecycle;
mod opt_in;
mod render;
mod rights;
mod run;
