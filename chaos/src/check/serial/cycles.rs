//! The search for a transaction that must have come before itself.

use std::collections::{HashMap, VecDeque};

use super::super::Findings;
use super::{Level, Txn, disorder, edges::Edges, edges::Why};

/// An edge of the graph that is searched; `through`: the reader, when it stands for an edge into a reader and the
/// anti-dependency that leaves it.
type Link = (usize, Why, Option<usize>);

pub(super) fn search(txns: &[Txn], edges: &Edges, name: &dyn Fn(usize) -> String, findings: &mut Findings) {
    let committed = committed_before(txns, edges);
    let broken = components(&committed);
    for component in &broken {
        disorder(findings, tell("no order explains these", &shortest(component, &committed), name));
    }
    // What is forbidden anyway need not be noted once more.
    if broken.is_empty() {
        let serializable = among_serializable(txns, edges);
        for component in components(&serializable) {
            findings.note(tell("G2-item at SERIALIZABLE", &shortest(&component, &serializable), name));
        }
    }
}

/// All edges that say "committed before", those behind an anti-dependency included.
fn committed_before(txns: &[Txn], edges: &Edges) -> Vec<Vec<Link>> {
    let mut links: Vec<Vec<Link>> = vec![Vec::new(); txns.len()];
    for (from, list) in edges.from.iter().enumerate() {
        for (to, why) in list.iter().filter(|(_, why)| *why != Why::ReadWrite) {
            links[from].push((*to, *why, None));
            // The reader's snapshot is known to be newer than `from` only if the edge says so.
            if txns[*to].level == Level::ReadCommitted && *why != Why::RealTime {
                continue;
            }
            for (next, _) in edges.from[*to].iter().filter(|(_, why)| *why == Why::ReadWrite) {
                links[from].push((*next, *why, Some(*to)));
            }
        }
    }
    links
}

fn among_serializable(txns: &[Txn], edges: &Edges) -> Vec<Vec<Link>> {
    let is = |txn: usize| txns[txn].level == Level::Serializable;
    let links = edges.from.iter().enumerate().map(|(from, list)| {
        let kept = list.iter().filter(|(to, why)| is(from) && is(*to) && *why != Why::RealTime);
        kept.map(|(to, why)| (*to, *why, None)).collect()
    });
    links.collect()
}

/// The strongly connected components that hold a cycle (Tarjan, without recursion).
fn components(links: &[Vec<Link>]) -> Vec<Vec<usize>> {
    const NEW: usize = usize::MAX;
    let count = links.len();
    let (mut index, mut low, mut on_stack) = (vec![NEW; count], vec![0; count], vec![false; count]);
    let (mut stack, mut next, mut found) = (Vec::new(), 0, Vec::new());
    for root in 0..count {
        if index[root] != NEW {
            continue;
        }
        // Each entry: a node, and how many of its links have been followed.
        let mut path = vec![(root, 0)];
        while let Some((node, followed)) = path.last_mut() {
            let node = *node;
            if *followed == 0 {
                (index[node], low[node], on_stack[node]) = (next, next, true);
                next += 1;
                stack.push(node);
            }
            if let Some((to, ..)) = links[node].get(*followed) {
                *followed += 1;
                if index[*to] == NEW {
                    path.push((*to, 0));
                } else if on_stack[*to] {
                    low[node] = low[node].min(index[*to]);
                }
                continue;
            }
            path.pop();
            if let Some((parent, _)) = path.last() {
                low[*parent] = low[*parent].min(low[node]);
            }
            if low[node] == index[node] {
                let begin = stack
                    .iter()
                    .rposition(|other| *other == node)
                    .expect("a node is on the stack until its component ends");
                let component = stack.split_off(begin);
                for member in &component {
                    on_stack[*member] = false;
                }
                let itself = links[node].iter().any(|(to, ..)| *to == node);
                if component.len() > 1 || itself {
                    found.push(component);
                }
            }
        }
    }
    found
}

/// The shortest cycle through one node of a component: nodes with the link that leaves each.
fn shortest(component: &[usize], links: &[Vec<Link>]) -> Vec<(usize, Why, Option<usize>)> {
    let start = *component.first().expect("a component is not empty");
    let inside: std::collections::HashSet<usize> = component.iter().copied().collect();
    let mut came: HashMap<usize, (usize, Why, Option<usize>)> = HashMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(node) = queue.pop_front() {
        for (to, why, through) in links[node].iter().filter(|(to, ..)| inside.contains(to)) {
            if came.contains_key(to) {
                continue;
            }
            came.insert(*to, (node, *why, *through));
            queue.push_back(*to);
        }
        if came.contains_key(&start) {
            break;
        }
    }
    let mut cycle = Vec::new();
    let mut at = start;
    while let Some((from, why, through)) = came.get(&at) {
        cycle.push((*from, *why, *through));
        at = *from;
        if at == start {
            break;
        }
    }
    cycle.reverse();
    cycle
}

fn tell(what: &str, cycle: &[(usize, Why, Option<usize>)], name: &dyn Fn(usize) -> String) -> String {
    let mut text = format!("{what}:");
    for (txn, why, through) in cycle {
        text.push_str(&format!(" {} {}", name(*txn), words(*why)));
        if let Some(reader) = through {
            text.push_str(&format!(" {} {}", name(*reader), words(Why::ReadWrite)));
        }
    }
    text.push_str(" the first one");
    text
}

fn words(why: Why) -> &'static str {
    match why {
        Why::WriteWrite => "was overwritten by",
        Why::WriteRead => "was read by",
        Why::ReadWrite => "did not see",
        Why::RealTime => "ended before",
    }
}
