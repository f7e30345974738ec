//! Goal: no file makes the reading of a configuration panic; what is refused names a line of that file, and what is
//! accepted can be served by a node.
//!
//! Method: a good file in which proptest cuts, doubles and replaces pieces. `PROPTEST_CASES=100000` asks for more by hand.

use super::{tests::GOOD, *};
use proptest::{collection::vec, prelude::*, sample::Index};

/// What may come to stand anywhere.
fn piece() -> impl Strategy<Value = String> {
    let words = [
        "",
        "0",
        "-1",
        "1",
        "18446744073709551616",
        "1e400",
        "nan",
        "true",
        "\"\"",
        "''",
        "[",
        "]",
        "{",
        "}",
        "=",
        "\n",
        "\n[node]\n",
        "[[member]]\n",
        "\u{0}",
        "\u{feff}",
        "é",
        "\\u{d800}",
        "\"127.0.0.1:7402\"",
        "\"pg2\"",
        "#",
        "\"\"\"",
        "1979-05-27",
        "lease_ms = 1",
        "id = 2\n",
        "\"/\"",
        "..",
        "[::1]:7401",
        "port = 1\n",
    ];
    prop_oneof![4 => prop::sample::select(words.to_vec()).prop_map(str::to_owned), 1 => any::<String>()]
}

/// Replaces the characters between two places of `text` by `with`.
fn edited(text: &str, edits: &[(Index, usize, String)]) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    for (at, length, with) in edits {
        let from = at.index(characters.len() + 1);
        let to = (from + length).min(characters.len());
        characters.splice(from..to, with.chars());
    }
    characters.into_iter().collect()
}

proptest! {
    #[test]
    fn any_file_is_read_or_refused_with_its_place(
        edits in vec((any::<Index>(), 0..30_usize, piece()), 0..4),
    ) {
        let text = edited(GOOD, &edits);
        match parse(Path::new("n1.toml"), &text) {
            Ok(config) => {
                let node = &config.node;
                prop_assert!(node.id.0 > 0 && node.listen.port() > 0 && node.state_dir.is_absolute());
                prop_assert_eq!(node.initial_voter, node.voters.contains_key(&node.id));
                if let Some(bootstrap) = &config.bootstrap {
                    prop_assert!(bootstrap.settings.validate().is_ok(), "{:?}", bootstrap.settings);
                }
            }
            Err(error) => {
                let said = error.to_string();
                let line = said.strip_prefix("n1.toml:").and_then(|rest| rest.split(':').next()?.parse::<usize>().ok());
                let lines = text.lines().count().max(1) + 1;
                prop_assert!(line.is_some_and(|line| (1..=lines).contains(&line)), "{} in {:?}", said, text);
            }
        }
    }
}

#[test]
fn the_edits_reach_both_answers() {
    let (mut accepted, mut refused) = (0, 0);
    for at in 0..GOOD.len() {
        let text = format!("{}{}", &GOOD[..at], &GOOD[at + 1..]);
        match parse(Path::new("n1.toml"), &text) {
            Ok(_) => accepted += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(accepted > 50 && refused > 50, "{accepted} accepted, {refused} refused");
}
