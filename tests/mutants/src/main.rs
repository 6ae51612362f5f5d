//! Plants all mutants of some files at once: `a < b` becomes
//! `(if crate::mutants::on(17) { a <= b } else { a < b })`.
//!
//! Reads JSON, for each file `{"text": .., "mutants": [..]}` with the mutants as `cargo mutants --list --json`
//! describes them, each with a `number`. Writes, for each file, `{"text": .., "left_out": {number: why}}`.
//!
//! Comments show which text belongs to which mutant: `/*[17*/ .. /*]*/` to one, `/*{17,18*/ .. /*}*/` to those of
//! one expression. That is how `run` knows which mutant an error of the compiler is about.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::iter::Peekable;
use std::ops::Range;

use proc_macro2::{LineColumn, Span};
use serde_json::{Map, Value, json};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{BinOp, Expr, UnOp};

fn main() -> Result<(), Box<dyn Error>> {
    let files: Map<String, Value> = serde_json::from_reader(std::io::stdin())?;
    let mut planted = Map::new();
    for (name, file) in &files {
        let text = file["text"].as_str().ok_or("a file has no text")?;
        let mutants = file["mutants"].as_array().ok_or("a file has no mutants")?;
        let planted_file = plant(text, mutants).map_err(|error| format!("{name}: {error}"))?;
        planted.insert(name.clone(), planted_file);
    }
    println!("{}", Value::Object(planted));
    Ok(())
}

fn plant(text: &str, mutants: &[Value]) -> syn::Result<Value> {
    let mut finder = Finder::default();
    for mutant in mutants {
        let mutant = Mutant::read(mutant)
            .ok_or_else(|| syn::Error::new(Span::call_site(), format!("not a mutant as it was: {mutant}")))?;
        finder.waiting.entry((mutant.genre.clone(), mutant.start)).or_default().push(mutant);
    }
    finder.visit_file(&syn::parse_file(text)?);
    for mutant in finder.waiting.into_values().flatten() {
        finder.left_out.insert(mutant.number.to_string(), "constant".into());
    }
    let mut planter = Planter { text, left_out: finder.left_out };
    let text = planter.text_of(0..text.len(), &mut finder.sites.iter().peekable());
    Ok(json!({ "text": text, "left_out": planter.left_out }))
}

struct Mutant {
    number: u64,
    genre: String,
    replacement: String,
    start: (usize, usize),
    end: (usize, usize),
    returns_impl: bool,
}

impl Mutant {
    fn read(value: &Value) -> Option<Mutant> {
        let place = |end: &str| -> Option<(usize, usize)> {
            let place = &value["span"][end];
            Some((place["line"].as_u64()?.try_into().ok()?, place["column"].as_u64()?.try_into().ok()?))
        };
        Some(Mutant {
            number: value["number"].as_u64()?,
            genre: value["genre"].as_str()?.to_owned(),
            replacement: value["replacement"].as_str()?.to_owned(),
            start: place("start")?,
            end: place("end")?,
            returns_impl: value["function"]["return_type"].as_str().is_some_and(|ty| ty.contains("impl ")),
        })
    }
}

/// What a mutant does to its site. A site comes before those within it, also where both have the same range.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Shape {
    /// Returns a value before the body of a function.
    Body,
    /// Replaces the guard of a match arm.
    Guard,
    /// Adds a guard that is false.
    Arm,
    /// Replaces a part of an expression.
    Expression,
}

/// Finds the code that each mutant is about.
#[derive(Default)]
struct Finder {
    /// Mutants whose site has not been found, by genre and where they begin.
    waiting: HashMap<(String, (usize, usize)), Vec<Mutant>>,
    sites: BTreeMap<(usize, Reverse<usize>, Shape), Vec<Mutant>>,
    left_out: BTreeMap<String, String>,
}

impl Finder {
    fn site(&mut self, genre: &str, begins: Span, range: Range<usize>, shape: Shape) {
        let found = self.found(genre, begins);
        self.sites.entry((range.start, Reverse(range.end), shape)).or_default().extend(found);
    }

    fn unviable(&mut self, genre: &str, begins: Span) {
        for mutant in self.found(genre, begins) {
            self.left_out.insert(mutant.number.to_string(), "unviable".into());
        }
    }

    fn found(&mut self, genre: &str, begins: Span) -> Vec<Mutant> {
        let LineColumn { line, column } = begins.start();
        self.waiting.remove(&(genre.to_owned(), (line, column + 1))).unwrap_or_default()
    }
}

impl<'ast> Visit<'ast> for Finder {
    fn visit_block(&mut self, block: &'ast syn::Block) {
        if let (Some(first), Some(last)) = (block.stmts.first(), block.stmts.last()) {
            let range = first.span().byte_range().start..last.span().byte_range().end;
            self.site("FnValue", first.span(), range, Shape::Body);
        }
        visit::visit_block(self, block);
    }

    fn visit_expr_binary(&mut self, expr: &'ast syn::ExprBinary) {
        // In a chain with `let`, no other operator can take the place of `&&`.
        if has_let(&expr.left) || has_let(&expr.right) {
            self.unviable("BinaryOperator", expr.op.span());
        } else {
            self.site("BinaryOperator", expr.op.span(), expr.span().byte_range(), Shape::Expression);
        }
        visit::visit_expr_binary(self, expr);
    }

    fn visit_expr_unary(&mut self, expr: &'ast syn::ExprUnary) {
        if !matches!(expr.op, UnOp::Deref(_)) {
            self.site("UnaryOperator", expr.op.span(), expr.span().byte_range(), Shape::Expression);
        }
        visit::visit_expr_unary(self, expr);
    }

    fn visit_expr_struct(&mut self, expr: &'ast syn::ExprStruct) {
        if expr.rest.is_some() {
            for field in &expr.fields {
                self.site("StructField", field.span(), expr.span().byte_range(), Shape::Expression);
            }
        }
        visit::visit_expr_struct(self, expr);
    }

    fn visit_expr_match(&mut self, expr: &'ast syn::ExprMatch) {
        if !expr.arms.iter().any(|arm| matches!(arm.pat, syn::Pat::Wild(_)) && arm.guard.is_none()) {
            expr.arms.iter().for_each(|arm| self.unviable("MatchArm", arm.span()));
        }
        visit::visit_expr_match(self, expr);
    }

    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        if let Some((_, guard)) = &arm.guard {
            self.site("MatchArmGuard", guard.span(), guard.span().byte_range(), Shape::Guard);
        }
        let after_pattern = arm.pat.span().byte_range().end;
        self.site("MatchArm", arm.span(), after_pattern..after_pattern, Shape::Arm);
        visit::visit_arm(self, arm);
    }

    // Constants, types and patterns cannot ask which mutant is enabled. Macros are left as they are.
    fn visit_item_const(&mut self, _: &'ast syn::ItemConst) {}
    fn visit_item_static(&mut self, _: &'ast syn::ItemStatic) {}
    fn visit_impl_item_const(&mut self, _: &'ast syn::ImplItemConst) {}
    fn visit_type(&mut self, _: &'ast syn::Type) {}
    fn visit_pat(&mut self, _: &'ast syn::Pat) {}
    fn visit_expr_repeat(&mut self, expr: &'ast syn::ExprRepeat) {
        self.visit_expr(&expr.expr);
    }
}

fn has_let(expr: &Expr) -> bool {
    match expr {
        Expr::Let(_) => true,
        Expr::Binary(expr) if matches!(expr.op, BinOp::And(_)) => has_let(&expr.left) || has_let(&expr.right),
        _ => false,
    }
}

struct Planter<'a> {
    text: &'a str,
    left_out: BTreeMap<String, String>,
}

impl Planter<'_> {
    /// The text of a range, with the mutants of the sites in it.
    fn text_of<'a>(
        &mut self,
        range: Range<usize>,
        sites: &mut Peekable<impl Iterator<Item = (&'a (usize, Reverse<usize>, Shape), &'a Vec<Mutant>)>>,
    ) -> String {
        let mut text = String::new();
        let mut at = range.start;
        while let Some((&(start, Reverse(end), shape), mutants)) = sites.next_if(|site| site.0.0 < range.end) {
            text += &self.text[at..start];
            let inside = self.text_of(start..end, sites);
            text += &self.with_mutants(start..end, shape, mutants, inside);
            at = end;
        }
        text + &self.text[at..range.end]
    }

    fn with_mutants(&mut self, range: Range<usize>, shape: Shape, mutants: &[Mutant], inside: String) -> String {
        let mut before = String::new();
        let mut numbers = Vec::new();
        for mutant in mutants {
            let number = mutant.number;
            let replaced = match shape {
                Shape::Expression => self.replaced(range.clone(), mutant),
                _ => mutant.replacement.clone(),
            };
            let why = if shape == Shape::Body && mutant.returns_impl {
                "returns impl"
            } else if shape != Shape::Arm && syn::parse_str::<Expr>(&replaced).is_err() {
                "unviable"
            } else {
                numbers.push(number.to_string());
                before += &match shape {
                    Shape::Body => {
                        format!("/*[{number}*/if crate::mutants::on({number}) {{ return {replaced}; }}/*]*/ ")
                    }
                    Shape::Guard if replaced == "true" => {
                        format!("/*[{number}*/crate::mutants::on({number})/*]*/ || ")
                    }
                    Shape::Guard => format!("/*[{number}*/!crate::mutants::on({number})/*]*/ && "),
                    Shape::Arm => format!(" if /*[{number}*/!crate::mutants::on({number})/*]*/"),
                    Shape::Expression => {
                        format!("if crate::mutants::on({number}) {{/*[{number}*/{replaced}/*]*/}} else ")
                    }
                };
                continue;
            };
            self.left_out.insert(number.to_string(), why.into());
        }
        let numbers = numbers.join(",");
        match shape {
            _ if numbers.is_empty() => inside,
            Shape::Body | Shape::Arm => before + &inside,
            Shape::Guard => format!("/*{{{numbers}*/{before}({inside})/*}}*/"),
            Shape::Expression => format!("/*{{{numbers}*/({before}{{{inside}}})/*}}*/"),
        }
    }

    /// The text of the whole expression, with the part replaced that the mutant is about.
    fn replaced(&self, range: Range<usize>, mutant: &Mutant) -> String {
        let [start, end] = [mutant.start, mutant.end].map(|place| self.offset(place));
        [&self.text[range.start..start], &mutant.replacement, &self.text[end..range.end]].concat()
    }

    /// Lines and columns begin at 1; a column is a character.
    fn offset(&self, (line, column): (usize, usize)) -> usize {
        let line_start: usize = self.text.split_inclusive('\n').take(line - 1).map(str::len).sum();
        let before: usize = self.text[line_start..].chars().take(column - 1).map(char::len_utf8).sum();
        line_start + before
    }
}
