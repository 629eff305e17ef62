//! "Did you mean": the name that was probably meant.

/// The candidate closest to `name`, if one is close.
pub(crate) fn closest<'c>(
    name: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    // Long enough for any name that can be meant, and bounds the work on one that cannot.
    if name.len() > MOST_BYTES {
        return None;
    }
    let name = name.to_ascii_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (similarity(&name, candidate), candidate))
        .filter(|(similarity, _)| *similarity >= CLOSE)
        .max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| b.1.cmp(a.1)))
        .map(|(_, candidate)| candidate)
}

fn similarity(name: &str, candidate: &str) -> f64 {
    strsim::jaro_winkler(name, candidate)
        .max(strsim::normalized_damerau_levenshtein(name, candidate))
}

/// "did you mean .. ?", or a list of what there is, or `nothing` where there is nothing.
pub(crate) fn help<'c>(
    name: &str,
    candidates: impl IntoIterator<Item = &'c str> + Clone,
    what: &str,
    nothing: &str,
) -> String {
    if let Some(candidate) = closest(name, candidates.clone()) {
        return format!("did you mean `{candidate}`?");
    }
    let list = listed(candidates);
    if list.is_empty() {
        return nothing.to_owned();
    }
    format!("{what}: {list}")
}

/// The first few of `names`, quoted and separated by commas.
pub(crate) fn listed<'c>(names: impl IntoIterator<Item = &'c str>) -> String {
    let mut names = names.into_iter();
    let mut shown: Vec<_> = names
        .by_ref()
        .take(MOST_LISTED)
        .map(|name| format!("`{name}`"))
        .collect();
    if names.next().is_some() {
        shown.push("...".to_owned());
    }
    shown.join(", ")
}

const CLOSE: f64 = 0.8;
const MOST_LISTED: usize = 8;
const MOST_BYTES: usize = 200;

#[cfg(test)]
mod tests {
    use super::closest;

    #[test]
    fn what_was_probably_meant() {
        let names = [
            "weights",
            "service",
            "from",
            "shop/checkout",
            "shop/payments",
        ];
        for (typed, expected) in [
            ("wieghts", Some("weights")),
            ("weight", Some("weights")),
            ("Service", Some("service")),
            ("shop/chekout", Some("shop/checkout")),
            ("form", Some("from")),
            ("zzz", None),
            ("", None),
        ] {
            assert_eq!(closest(typed, names), expected, "{typed}");
        }
    }
}
