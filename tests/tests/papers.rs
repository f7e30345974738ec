//! Goal: what the papers name is there. Method: every Rust file is read for the histories that it cites, and each must
//! have a heading in `docs/protocol.md`; every path that this paper and `ARCHITECTURE.md` name must exist, and every
//! link of theirs and of the README.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Where the histories are told.
const PROTOCOL: &str = "docs/protocol.md";
const ARCHITECTURE: &str = "ARCHITECTURE.md";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file and folder of the workspace, relative to its root. What builds made and what is hidden is left out.
fn workspace() -> Vec<String> {
    fn below(dir: &Path, prefix: &str, found: &mut Vec<String>) {
        let Ok(entries) = fs::read_dir(dir) else { return };
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            if name == "target" || name.starts_with('.') {
                continue;
            }
            let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                below(&entry.path(), &path, found);
            }
            found.push(path);
        }
    }
    let mut found = Vec::new();
    below(&root(), "", &mut found);
    found.sort();
    assert!(found.len() > 200, "only {} files were found", found.len());
    found
}

/// `A7` of the words `A7` and, as a step of it, `A7a`.
fn code(word: &str) -> Option<String> {
    let letter = word.chars().next().filter(|letter| matches!(*letter, 'A'..='F' | 'T'))?;
    let rest = &word[1..];
    let digits = rest.trim_end_matches(|step: char| ('a'..='d').contains(&step));
    let number: u32 = digits.parse().ok()?;
    let plain = rest.len() - digits.len() <= 1 && digits.len() <= 2 && !digits.starts_with('0');
    plain.then(|| format!("{letter}{number}"))
}

/// The histories that are named in `text`, in its order.
fn codes(text: &str) -> Vec<String> {
    let apart = |c: char| !c.is_alphanumeric() && !"_/-#".contains(c);
    let mut found = Vec::new();
    let mut before = "";
    for word in text.split(apart).filter(|word| !word.is_empty()) {
        let two_digits = word.len() == 2 && word.chars().all(|c| c.is_ascii_digit());
        if two_digits && before.eq_ignore_ascii_case("case") {
            found.push(format!("Case {word}"));
        }
        // A trial is cited by one of its parts, `T1.2`; transactions are called `T1`, too.
        if !word.starts_with('T') || text.contains(&format!("{word}.")) {
            found.extend(code(word));
        }
        before = word;
    }
    found
}

/// The histories that a line of Rust cites: in a comment, and in a text that speaks of histories.
fn cited(line: &str) -> Vec<String> {
    let lower = line.to_lowercase();
    let speaks = ["(history ", "(histories ", "history a", "histories a"].iter().any(|word| lower.contains(word));
    let comment = line.find("//").map_or("", |at| &line[at..]);
    codes(if speaks { line } else { comment })
}

/// The histories that have a heading.
fn told(protocol: &str) -> Vec<String> {
    let headings = protocol.lines().filter_map(|line| line.strip_prefix("### "));
    let named = |heading: &str| {
        let mut words = heading.split(' ');
        let first = words.next()?;
        if first == "Case" { words.next().map(|number| format!("Case {number}")) } else { code(first) }
    };
    headings.filter_map(named).collect()
}

/// Without the folders that every path has.
fn parts(path: &str) -> Vec<&str> {
    path.trim_end_matches('/').split('/').filter(|part| *part != "src").collect()
}

fn is_path(word: &str) -> bool {
    let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c));
    let file = [".rs", ".md", ".toml", ".proto"].iter().any(|end| word.ends_with(end));
    plain && !word.starts_with('/') && (file || word.contains('/'))
}

#[test]
fn a_citation_is_seen_and_what_looks_like_one_is_not() {
    let seen = |line: &str| cited(line).join(" ");
    assert_eq!(
        seen("    /// B7's way out (histories A1, A10; proof step D3a). Review F13; `A2`: case 21."),
        "B7 A1 A10 D3 F13 A2 Case 21"
    );
    assert_eq!(seen("// Trial T2.7: T1 read it before."), "T2");
    assert_eq!(seen(r#"Self::PairOfRules => "Agreed as a pair of rules (history A1).","#), "A1");
    for line in ["// G2-item at 0/A1, A0, A100, F1x, S1, pgvigil_a1, in any case.", r#"let lsn = "A1";"#, "A7"] {
        assert_eq!(seen(line), "", "{line}");
    }
    assert_eq!(told("# A1\n### A2 A heading\n### Case 01 Another\ntext A3\n"), ["A2", "Case 01"]);
    for (word, path) in [("core/rule.rs", true), ("decide.rs", true), ("/dev/watchdog", false), ("wide", false)] {
        assert_eq!(is_path(word), path, "{word}");
    }
    assert!(parts("supervisor/core/src/rule.rs").ends_with(&parts("core/rule.rs")));
    assert!(!parts("supervisor/core/src/my_rule.rs").ends_with(&parts("core/rule.rs")));
}

#[test]
fn every_history_that_the_code_cites_is_told() {
    let headings = told(&text(PROTOCOL));
    let known: BTreeSet<&String> = headings.iter().collect();
    assert_eq!(known.len(), headings.len(), "a history is told twice in {PROTOCOL}: {headings:?}");
    let mut citations = 0;
    let mut missing = Vec::new();
    for file in workspace().iter().filter(|file| file.ends_with(".rs")) {
        for (number, line) in text(file).lines().enumerate() {
            for history in cited(line) {
                citations += 1;
                if !known.contains(&history) {
                    missing.push(format!("{file}:{}: {history} has no heading in {PROTOCOL}", number + 1));
                }
            }
        }
    }
    assert!(citations > 100, "only {citations} citations were found");
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn every_path_that_a_paper_names_is_there() {
    let there = workspace();
    let exists = |word: &str| there.iter().any(|path| parts(path).ends_with(&parts(word)));
    let mut missing = Vec::new();
    for paper in [PROTOCOL, ARCHITECTURE] {
        for (number, line) in text(paper).lines().enumerate() {
            let words = line.split('`').skip(1).step_by(2).filter(|word| is_path(word));
            let gone = words.filter(|word| !exists(word));
            missing.extend(gone.map(|word| format!("{paper}:{}: there is no {word}", number + 1)));
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn every_link_of_a_paper_leads_somewhere() {
    let mut missing = Vec::new();
    for paper in [PROTOCOL, ARCHITECTURE, "README.md"] {
        let place = root().join(paper);
        let folder = place.parent().expect("a file lies in a folder");
        for (number, line) in text(paper).lines().enumerate() {
            for link in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                let file = link.split('#').next().unwrap_or_default();
                if !file.is_empty() && !file.contains("://") && !folder.join(file).exists() {
                    missing.push(format!("{paper}:{}: nothing is at {link}", number + 1));
                }
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}
