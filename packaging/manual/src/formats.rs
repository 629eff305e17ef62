//! The manual pages of the two file formats, section 5, which show the examples of the repository.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

/// Writes both into `directory`.
pub(crate) fn write(directory: &Path) -> Result<()> {
    for (name, page, example) in PAGES {
        let path = directory.join(name);
        let page = with_example(page, example);
        fs::write(&path, page).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn with_example(page: &str, example: &str) -> String {
    page.replace(MARK, &literal(example))
}

/// Text that the formatter leaves as it is.
fn literal(text: &str) -> String {
    let mut literal = String::with_capacity(text.len());
    for line in text.lines() {
        // A line that begins with one of these is a request.
        let guard = if line.starts_with(['.', '\'']) {
            "\\&"
        } else {
            ""
        };
        let line = line.replace('\\', "\\e").replace('-', "\\-");
        literal.push_str(guard);
        literal.push_str(&line.replace('"', "\\(dq"));
        literal.push('\n');
    }
    literal
}

const MARK: &str = ".\\\" @EXAMPLE@\n";
const PAGES: [(&str, &str, &str); 2] = [
    (
        "mesh-agent.toml.5",
        include_str!("../../man/mesh-agent.toml.5"),
        crate::EXAMPLE,
    ),
    (
        "mesh-policy.5",
        include_str!("../../man/mesh-policy.5"),
        include_str!("../../../examples/conf.d/10-shop.toml"),
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_show_the_examples() {
        for (name, page, example) in PAGES {
            assert!(page.contains(MARK), "{name}");
            let page = with_example(page, example).replace("\\-", "-");
            let first = example.lines().next().unwrap_or_default();
            assert!(page.contains(first), "{name}: {first}");
            assert!(!page.contains(MARK), "{name}");
        }
    }

    #[test]
    fn nothing_of_an_example_is_a_request() {
        assert_eq!(
            literal(".x\n'y\na \\ b-\"c\""),
            "\\&.x\n\\&'y\na \\e b\\-\\(dqc\\(dq\n"
        );
    }
}
