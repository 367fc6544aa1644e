//! Calico's selector language, as alternatives of labels:
//! <https://docs.tigera.io/calico/latest/reference/resources/globalnetworkpolicy#selectors>.

use crate::labels::Labels;

/// A selector with more alternatives than this is not read.
const ALTERNATIVES: usize = 64;
/// Deeper brackets are not read.
const DEPTH: usize = 32;

/// The labels that a selector chooses, any of them. Empty, it chooses everything.
pub(super) fn parse(text: &str) -> Result<Vec<Labels>, String> {
    if text.trim().is_empty() {
        return Ok(vec![Labels::any()]);
    }
    let mut parser = Parser { rest: text.trim_start(), depth: 0 };
    let chosen = parser.either().filter(|_| parser.rest.is_empty());
    chosen.ok_or_else(|| format!("its selector {text:?} can't be read"))
}

type Choice = Vec<Labels>;

struct Parser<'a> {
    rest: &'a str,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn either(&mut self) -> Option<Choice> {
        let mut choice = self.both()?;
        while self.take("||") {
            choice.extend(self.both()?);
        }
        (choice.len() <= ALTERNATIVES).then_some(choice)
    }

    fn both(&mut self) -> Option<Choice> {
        let mut choice = self.one()?;
        while self.take("&&") {
            choice = intersection(&choice, &self.one()?)?;
        }
        Some(choice)
    }

    fn one(&mut self) -> Option<Choice> {
        if self.take("!") {
            return negation(&self.one()?);
        }
        if self.take("(") {
            self.depth += 1;
            let inner = (self.depth <= DEPTH).then(|| self.either()).flatten()?;
            self.depth -= 1;
            return self.take(")").then_some(inner);
        }
        let name = self.name()?;
        match name {
            "all" if self.take("(") => self.take(")").then(|| vec![Labels::any()]),
            "has" if self.take("(") => {
                let key = self.name()?;
                self.take(")").then(|| vec![Labels::exists(key)])
            }
            key => self.comparison(key),
        }
    }

    fn comparison(&mut self, key: &str) -> Option<Choice> {
        if self.take("==") {
            return Some(vec![Labels::equal(key, self.literal()?)]);
        }
        if self.take("!=") {
            return negation(&[Labels::equal(key, self.literal()?)]);
        }
        if self.word("in") {
            return Some(vec![Labels::one_of(key, self.set()?)]);
        }
        if self.word("not") && self.word("in") {
            return negation(&[Labels::one_of(key, self.set()?)]);
        }
        None
    }

    fn set(&mut self) -> Option<Vec<&'a str>> {
        let mut values = Vec::new();
        if !self.take("{") {
            return None;
        }
        while !self.take("}") {
            values.push(self.literal()?);
            if !self.take(",") && !self.rest.starts_with('}') {
                return None;
            }
        }
        Some(values)
    }

    fn literal(&mut self) -> Option<&'a str> {
        let quote = self.rest.chars().next().filter(|first| matches!(first, '"' | '\''))?;
        let (text, rest) = self.rest[1..].split_once(quote)?;
        self.rest = rest.trim_start();
        Some(text)
    }

    fn name(&mut self) -> Option<&'a str> {
        let is_part = |each: char| each.is_ascii_alphanumeric() || matches!(each, '_' | '.' | '/' | '-');
        let end = self.rest.find(|each| !is_part(each)).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest.trim_start();
        (!name.is_empty()).then_some(name)
    }

    fn word(&mut self, word: &str) -> bool {
        let follows =
            self.rest.strip_prefix(word).filter(|rest| !rest.starts_with(|each: char| each.is_ascii_alphanumeric()));
        if let Some(rest) = follows {
            self.rest = rest.trim_start();
        }
        follows.is_some()
    }

    fn take(&mut self, token: &str) -> bool {
        let follows = self.rest.strip_prefix(token);
        if let Some(rest) = follows {
            self.rest = rest.trim_start();
        }
        follows.is_some()
    }
}

fn intersection(left: &[Labels], right: &[Labels]) -> Option<Choice> {
    let pairs = left.iter().flat_map(|a| right.iter().filter_map(move |b| a.intersection(b)));
    let choice: Vec<_> = pairs.take(ALTERNATIVES + 1).collect();
    (choice.len() <= ALTERNATIVES).then_some(choice)
}

fn negation(choice: &[Labels]) -> Option<Choice> {
    let mut rest = vec![Labels::any()];
    for labels in choice {
        rest = rest.iter().flat_map(|each| each.difference(labels)).collect();
        if rest.len() > ALTERNATIVES {
            return None;
        }
    }
    Some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chooses(selector: &str, labels: &[(&str, &str)]) -> bool {
        let choice = parse(selector).expect(selector);
        let value = |key: &str| labels.iter().find(|(each, _)| *each == key).map(|(_, value)| *value);
        choice.iter().any(|labels| labels.matches(value))
    }

    #[test]
    fn a_selector_chooses_what_its_operators_say() {
        let front: &[_] = &[("app", "front"), ("example.com/tier", "a")];
        for selector in [
            "",
            "all()",
            "app == 'front'",
            "app==\"front\"&&has(example.com/tier)",
            "app in {'front', 'back'}",
            "app not in { 'back' }",
            "other not in {'x'}",
            "other != 'x'",
            "! has(other)",
            "!(app == 'back' || has(other))",
            "app == 'back' || example.com/tier == 'a'",
            "(app == 'front' || app == 'back') && !(example.com/tier == 'b')",
        ] {
            assert!(chooses(selector, front), "{selector}");
        }
        for selector in
            ["app != 'front'", "!all()", "app == 'front' && other == 'x'", "app in {}", "!(app in {'front'})"]
        {
            assert!(!chooses(selector, front), "{selector}");
        }
    }

    #[test]
    fn what_is_not_in_the_language_is_not_read() {
        let deep = "(".repeat(1000) + "all()" + &")".repeat(1000);
        for selector in [
            "app =",
            "app == front",
            "app contains 'x'",
            "app starts with 'x'",
            "all() all()",
            "has(",
            "&& all()",
            &deep,
        ] {
            assert!(parse(selector).is_err(), "{selector}");
        }
    }
}
