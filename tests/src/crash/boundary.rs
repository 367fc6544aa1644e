//! A moment at which a process can die: before or after one request.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context as _, bail};

/// One request of a scenario, the same in each run of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Point {
    /// Method and path, with placeholders for names that differ from run to run.
    pub what: String,
    /// The how manieth of its kind, from 1.
    pub occurrence: usize,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} #{}", self.what, self.occurrence)
    }
}

/// On which side of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// It was sent, and never taken.
    Before,
    /// It took effect, and its answer never came.
    After,
}

/// Where Quell is killed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Boundary {
    /// The request.
    pub point: Point,
    /// Before or after it.
    pub side: Side,
}

impl fmt::Display for Boundary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = match self.side {
            Side::Before => "before",
            Side::After => "after",
        };
        write!(f, "{side} {}", self.point)
    }
}

impl FromStr for Boundary {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (side, rest) = text.split_once(' ').context("a boundary is such as `after PATCH /path #1`")?;
        let side = match side {
            "before" => Side::Before,
            "after" => Side::After,
            other => bail!("a boundary is before or after a request, not {other:?}"),
        };
        let (what, occurrence) = rest.rsplit_once(" #").context("a boundary ends with #1, #2, …")?;
        let occurrence = occurrence.parse().context("the number after # is none")?;
        Ok(Self { point: Point { what: what.to_owned(), occurrence }, side })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_can_be_asked_for() {
        let point = Point { what: "PATCH /api/v1/namespaces/{ns}/pods/{pod}".to_owned(), occurrence: 2 };
        let boundary = Boundary { point, side: Side::After };
        assert_eq!(boundary.to_string().parse::<Boundary>().unwrap(), boundary);
        assert!("PATCH /x #1".parse::<Boundary>().is_err());
        assert!("after PATCH /x".parse::<Boundary>().is_err());
    }
}
