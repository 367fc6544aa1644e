//! Two texts, line by line.

/// More lines than that are shown whole: the comparison takes their product.
const MOST_LINES: usize = 1000;
/// Lines around a change that are shown with it.
const CONTEXT: usize = 2;

/// A line, and whether it is there before (`-`), after (`+`), or both (` `).
type Line<'a> = (char, &'a str);

/// What changes from one text to the other, with a little around it; `…` stands for what stays as it is.
pub fn lines(before: &str, after: &str) -> Vec<String> {
    let (a, b): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let all: Vec<Line<'_>> = if a.len().max(b.len()) > MOST_LINES {
        a.iter().map(|line| ('-', *line)).chain(b.iter().map(|line| ('+', *line))).collect()
    } else {
        compare(&a, &b)
    };
    let changed: Vec<usize> = all.iter().enumerate().filter(|(_, line)| line.0 != ' ').map(|(i, _)| i).collect();
    let mut shown = Vec::new();
    let mut skipped = false;
    for (i, (sign, line)) in all.iter().enumerate() {
        if changed.iter().any(|at| at.abs_diff(i) <= CONTEXT) {
            shown.push(format!("{sign} {line}"));
            skipped = false;
        } else if !skipped {
            shown.push("  …".to_owned());
            skipped = true;
        }
    }
    shown
}

/// By the longest common subsequence.
fn compare<'a>(a: &[&'a str], b: &[&'a str]) -> Vec<Line<'a>> {
    // Length of what is common to the rests of both.
    let mut common = vec![vec![0_u32; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            common[i][j] = if a[i] == b[j] { common[i + 1][j + 1] + 1 } else { common[i + 1][j].max(common[i][j + 1]) };
        }
    }
    let (mut i, mut j, mut lines) = (0, 0, Vec::new());
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            lines.push((' ', a[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == b.len() || (i < a.len() && common[i + 1][j] >= common[i][j + 1]) {
            lines.push(('-', a[i]));
            i += 1;
        } else {
            lines.push(('+', b[j]));
            j += 1;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_shows_with_what_is_around_it() {
        let before = "a\nb\nc\nd\ne\nimage: x:1\nf\ng\nh\n";
        let after = before.replace("x:1", "x:2");
        assert_eq!(lines(before, &after), ["  …", "  d", "  e", "- image: x:1", "+ image: x:2", "  f", "  g", "  …"]);
    }

    #[test]
    fn all_is_new_where_nothing_was() {
        assert_eq!(lines("", "a\nb"), ["+ a", "+ b"]);
        assert_eq!(lines("a", ""), ["- a"]);
        assert_eq!(lines("", ""), [""; 0]);
    }
}
