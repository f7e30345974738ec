//! Puts bugs into one file, each behind a question.

use proc_macro2::Span;
use quote::{ToTokens, quote};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt};
use syn::{
    BinOp, Block, Expr, ExprBinary, ExprMethodCall, ExprUnary, File, Ident, ImplItemFn, Item, ItemFn, Path, ReturnType,
    Signature, Stmt, Type, UnOp, parse_quote,
    spanned::Spanned,
    visit::Visit,
    visit_mut::{self, VisitMut},
};

/// A bug.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Mutant {
    /// Its number: what the variable names.
    pub id: u32,
    /// The file, from the project's folder.
    pub file: String,
    /// The line there.
    pub line: usize,
    /// The function.
    pub function: String,
    /// What it is.
    pub what: String,
}

impl fmt::Display for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, file, line, function, what } = self;
        write!(f, "{id:5} {file}:{line} {function}: {what}")
    }
}

/// Puts bugs into `source`, numbered from `next` on. Those in `without` are left out, their numbers too.
pub fn mutate(
    source: &str,
    file: &str,
    in_core: bool,
    next: &mut u32,
    without: &BTreeSet<u32>,
) -> syn::Result<(String, Vec<Mutant>)> {
    let mut parsed: File = syn::parse_file(source)?;
    let ask = if in_core { parse_quote!(crate::mutation::on) } else { parse_quote!(pgvigil_core::mutation::on) };
    let mut mutator = Mutator { ask, file, next, without, function: Vec::new(), found: Vec::new() };
    mutator.visit_file_mut(&mut parsed);
    let found = mutator.found;
    Ok((prettyplease::unparse(&parsed), found))
}

struct Mutator<'a> {
    ask: Path,
    file: &'a str,
    next: &'a mut u32,
    without: &'a BTreeSet<u32>,
    function: Vec<String>,
    found: Vec<Mutant>,
}

impl Mutator<'_> {
    /// The question for a new bug, unless that one is left out.
    fn question(&mut self, at: Span, what: String) -> Option<Expr> {
        let id = *self.next;
        *self.next += 1;
        if self.without.contains(&id) {
            return None;
        }
        let function = self.function.join("::");
        self.found.push(Mutant { id, file: self.file.to_owned(), line: at.start().line, function, what });
        let ask = &self.ask;
        Some(parse_quote!(#ask(#id)))
    }

    /// `here` becomes a choice between itself and the bug.
    fn choose(&mut self, here: &mut Expr, bug: &Expr, at: Span, what: String) {
        if let Some(question) = self.question(at, what) {
            let right = here.clone();
            *here = parse_quote!((if #question { #bug } else { #right }));
        }
    }

    /// Bugs of a whole function: it does nothing, or always answers the same.
    fn body(&mut self, signature: &Signature, block: &mut Block) {
        let at = signature.ident.span();
        let answers: &[&str] = match &signature.output {
            ReturnType::Default => &["return"],
            ReturnType::Type(_, of) => match last_segment(of).as_deref() {
                Some("bool") => &["return true", "return false"],
                Some("Option") => &["return None"],
                Some("Applied") => &["return Ok(())"],
                Some("Vec") => &["return Vec::new()"],
                Some("Result") if is_result_of_unit(of) => &["return Ok(())"],
                _ => &[],
            },
        };
        for answer in answers {
            let Ok(bug) = syn::parse_str::<Expr>(answer) else { continue };
            if let Some(question) = self.question(at, (*answer).to_owned()) {
                block.stmts.insert(0, parse_quote!(if #question { #bug; }));
            }
        }
    }

    fn in_function(&mut self, signature: &Signature, block: &mut Block) {
        if signature.constness.is_some() {
            return;
        }
        self.function.push(signature.ident.to_string());
        self.visit_block_mut(block);
        self.body(signature, block);
        self.function.pop();
    }
}

fn last_segment(of: &Type) -> Option<String> {
    let Type::Path(path) = of else { return None };
    path.path.segments.last().map(|segment| segment.ident.to_string())
}

fn is_result_of_unit(of: &Type) -> bool {
    let text = quote!(#of).to_string().replace(' ', "");
    text.contains("Result<()>") || text.contains("Result<(),")
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test") || quote!(#attribute).to_string().replace(' ', "").contains("cfg(test)")
    })
}

/// Another operator that compiles wherever this one does, most of the time.
fn other(op: &BinOp) -> Option<BinOp> {
    Some(match op {
        BinOp::Eq(_) => parse_quote!(!=),
        BinOp::Ne(_) => parse_quote!(==),
        BinOp::Lt(_) => parse_quote!(<=),
        BinOp::Le(_) => parse_quote!(<),
        BinOp::Gt(_) => parse_quote!(>=),
        BinOp::Ge(_) => parse_quote!(>),
        BinOp::And(_) => parse_quote!(||),
        BinOp::Or(_) => parse_quote!(&&),
        BinOp::Add(_) => parse_quote!(-),
        BinOp::Sub(_) => parse_quote!(+),
        _ => return None,
    })
}

const METHODS: [(&str, &str); 5] =
    [("min", "max"), ("any", "all"), ("is_some", "is_none"), ("is_some_and", "is_none_or"), ("is_ok", "is_err")];

fn other_method(name: &str) -> Option<&'static str> {
    METHODS.iter().find_map(|(a, b)| match name {
        _ if name == *a => Some(*b),
        _ if name == *b => Some(*a),
        _ => None,
    })
}

/// `if let ... && ...`: a choice would hide the binding.
fn binds(expr: &Expr) -> bool {
    struct Lets(bool);
    impl<'ast> Visit<'ast> for Lets {
        fn visit_expr_let(&mut self, _: &'ast syn::ExprLet) {
            self.0 = true;
        }
        fn visit_block(&mut self, _: &'ast Block) {}
    }
    let mut lets = Lets(false);
    lets.visit_expr(expr);
    lets.0
}

fn shown(tokens: &impl ToTokens) -> String {
    let text = quote!(#tokens).to_string();
    if text.chars().count() > 60 { format!("{}...", text.chars().take(60).collect::<String>()) } else { text }
}

impl VisitMut for Mutator<'_> {
    fn visit_item_mut(&mut self, item: &mut Item) {
        let attributes = match item {
            Item::Mod(of) => &of.attrs,
            Item::Fn(of) => &of.attrs,
            Item::Impl(of) => &of.attrs,
            Item::Const(_) | Item::Static(_) | Item::Enum(_) | Item::Struct(_) | Item::Macro(_) => return,
            _ => return visit_mut::visit_item_mut(self, item),
        };
        if !is_test(attributes) {
            visit_mut::visit_item_mut(self, item);
        }
    }

    fn visit_item_fn_mut(&mut self, item: &mut ItemFn) {
        self.in_function(&item.sig.clone(), &mut item.block);
    }

    fn visit_impl_item_fn_mut(&mut self, item: &mut ImplItemFn) {
        if !is_test(&item.attrs) {
            self.in_function(&item.sig.clone(), &mut item.block);
        }
    }

    fn visit_impl_item_const_mut(&mut self, _: &mut syn::ImplItemConst) {}

    fn visit_expr_repeat_mut(&mut self, _: &mut syn::ExprRepeat) {}

    fn visit_stmt_mut(&mut self, stmt: &mut Stmt) {
        let original = stmt.clone();
        visit_mut::visit_stmt_mut(self, stmt);
        if let Stmt::Expr(expr, Some(_)) = &original
            && matches!(expr, Expr::Call(_) | Expr::MethodCall(_) | Expr::Try(_) | Expr::Await(_))
            && let Some(question) = self.question(expr.span(), format!("without {}", shown(expr)))
        {
            let right = stmt.clone();
            *stmt = parse_quote!(if !#question { #right });
        }
    }

    fn visit_expr_mut(&mut self, expr: &mut Expr) {
        let original = expr.clone();
        visit_mut::visit_expr_mut(self, expr);
        let at = original.span();
        match &original {
            Expr::Binary(binary) if !binds(&original) => {
                if let Some(op) = other(&binary.op) {
                    let what = format!("{} instead of {} in {}", shown(&op), shown(&binary.op), shown(&original));
                    let bug = Expr::Binary(ExprBinary { op, ..binary.clone() });
                    self.choose(expr, &bug, at, what);
                }
            }
            Expr::Unary(ExprUnary { op: UnOp::Not(_), expr: inner, .. }) if !binds(inner) => {
                self.choose(expr, &inner.clone(), at, format!("without ! in {}", shown(&original)));
            }
            Expr::MethodCall(call) => {
                if let Some(name) = other_method(&call.method.to_string()) {
                    let what = format!("{name} instead of {} in {}", call.method, shown(&original));
                    let method = Ident::new(name, call.method.span());
                    let bug = Expr::MethodCall(ExprMethodCall { method, ..call.clone() });
                    self.choose(expr, &bug, at, what);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "
        const LIMIT: u32 = 1 + 2;
        pub fn late(now: u32, at: u32) -> bool {
            tell(now);
            if let Some(found) = find(at) && now > found { return true; }
            now - at > LIMIT && !quiet()
        }
        #[cfg(test)]
        mod tests { fn never(a: u32) -> bool { a == 1 } }
    ";

    #[test]
    fn each_bug_is_a_choice_and_constants_tests_and_bindings_are_left_alone() {
        let mut next = 7;
        let (text, found) = mutate(SOURCE, "a.rs", false, &mut next, &BTreeSet::new()).expect("it parses");
        let what: Vec<&str> = found.iter().map(|mutant| mutant.what.as_str()).collect();
        for expected in ["without tell (now)", "without ! in ! quiet ()", "return true", "return false"] {
            assert!(what.contains(&expected), "{expected} in {what:?}");
        }
        assert!(found.iter().all(|mutant| mutant.function == "late" && mutant.line > 2), "{found:?}");
        assert_eq!(u32::try_from(found.len()).expect("few"), next - 7);
        assert!(text.contains("const LIMIT: u32 = 1 + 2;") && text.contains("pgvigil_core::mutation::on(7"));
        syn::parse_file(&text).expect("the copy parses");
    }

    #[test]
    fn a_bug_that_is_left_out_keeps_its_number() {
        let all = mutate(SOURCE, "a.rs", true, &mut 0, &BTreeSet::new()).expect("it parses").1;
        let fewer = mutate(SOURCE, "a.rs", true, &mut 0, &BTreeSet::from([all[1].id])).expect("it parses").1;
        let ids = |mutants: &[Mutant]| mutants.iter().map(|mutant| mutant.id).collect::<Vec<_>>();
        assert_eq!(ids(&fewer), ids(&all).into_iter().filter(|id| *id != all[1].id).collect::<Vec<_>>());
    }
}
