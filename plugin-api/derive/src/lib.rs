//! The derive macro behind `medusa_plugin_api::Config`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{
    Attribute, Data, DeriveInput, Error, Expr, ExprLit, Field, Fields, Lit, Meta, Result, UnOp,
    parse_macro_input, spanned::Spanned,
};

/// Makes a struct with named fields a table of configuration. `#[config(default = …, min = …, max = …, one_of = […])]`
/// on a field; see the trait.
#[proc_macro_derive(Config, attributes(config))]
pub fn derive_config(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand(&input).unwrap_or_else(|error| error.to_compile_error()).into()
}

/// What `#[config(…)]` says of a field.
#[derive(Default)]
struct Options {
    default: Option<Expr>,
    min: Option<Expr>,
    max: Option<Expr>,
    one_of: Vec<String>,
}

fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let Data::Struct(data) = &input.data else {
        return Err(Error::new(input.span(), "`Config` can be derived for a struct only"));
    };
    let Fields::Named(fields) = &data.fields else {
        return Err(Error::new(input.span(), "`Config` needs a struct with named fields"));
    };
    if !input.generics.params.is_empty() {
        return Err(Error::new(input.generics.span(), "`Config` takes no generics"));
    }
    let name = &input.ident;
    let doc = doc_of(&input.attrs);
    let api = quote!(::medusa_plugin_api::__private::config);
    let mut schema = Vec::new();
    let mut readers = Vec::new();
    for field in &fields.named {
        let options = options_of(field)?;
        schema.push(schema_of(field, &options, &api)?);
        readers.push(reader_of(field, &options, &api)?);
    }
    Ok(quote! {
        #[automatically_derived]
        impl #api::Config for #name {
            const SCHEMA: #api::schema::Schema =
                #api::schema::Schema { doc: #doc, fields: &[#(#schema),*] };

            fn read(fields: &#api::Fields<'_>) -> ::medusa_plugin_api::Result<Self> {
                ::core::result::Result::Ok(#name { #(#readers),* })
            }
        }

        #[automatically_derived]
        impl #api::ConfigValue for #name {
            const KIND: #api::schema::Kind =
                #api::schema::Kind::Table(&<#name as #api::Config>::SCHEMA);

            fn from_value(value: &#api::Value) -> ::medusa_plugin_api::Result<Self> {
                <#name as #api::Config>::read(&#api::Fields::new(value)?)
            }
        }
    })
}

fn schema_of(field: &Field, options: &Options, api: &TokenStream) -> Result<TokenStream> {
    let (name, kind) = (name_of(field), &field.ty);
    let doc = doc_of(&field.attrs);
    let words = &options.one_of;
    let kind = if words.is_empty() {
        quote!(<#kind as #api::ConfigValue>::KIND)
    } else {
        quote!(#api::schema::Kind::OneOf(&[#(#words),*]))
    };
    let json = |expression: &Option<Expr>| -> Result<TokenStream> {
        Ok(match expression {
            None => quote!(::core::option::Option::None),
            Some(expression) => {
                let json = json_of(expression)?;
                quote!(::core::option::Option::Some(#json))
            }
        })
    };
    let (default, min, max) = (json(&options.default)?, json(&options.min)?, json(&options.max)?);
    let has_default = options.default.is_some();
    let ty = &field.ty;
    Ok(quote! {
        #api::schema::Field {
            name: #name,
            kind: #kind,
            required: !#has_default && !<#ty as #api::ConfigValue>::OPTIONAL,
            default: #default,
            doc: #doc,
            min: #min,
            max: #max,
        }
    })
}

fn reader_of(field: &Field, options: &Options, api: &TokenStream) -> Result<TokenStream> {
    let (ident, name) = (&field.ident, name_of(field));
    let default = match &options.default {
        None => quote!(::core::option::Option::None),
        Some(default) => {
            let value = value_of(default, api)?;
            quote!(::core::option::Option::Some(#value))
        }
    };
    let bound = |bound: &Option<Expr>| match bound {
        None => quote!(::core::option::Option::None),
        Some(bound) => quote!(::core::option::Option::Some((#bound) as f64)),
    };
    let (min, max, words) = (bound(&options.min), bound(&options.max), &options.one_of);
    Ok(quote!(#ident: fields.field(#name).read(#default, (#min, #max), &[#(#words),*])?))
}

fn options_of(field: &Field) -> Result<Options> {
    let mut options = Options::default();
    for attribute in field.attrs.iter().filter(|attribute| attribute.path().is_ident("config")) {
        attribute.parse_nested_meta(|meta| {
            let expression: Expr = meta.value()?.parse()?;
            if meta.path.is_ident("default") {
                options.default = Some(expression);
            } else if meta.path.is_ident("min") {
                options.min = Some(expression);
            } else if meta.path.is_ident("max") {
                options.max = Some(expression);
            } else if meta.path.is_ident("one_of") {
                options.one_of = words_of(&expression)?;
            } else {
                return Err(meta.error("expected `default`, `min`, `max` or `one_of`"));
            }
            Ok(())
        })?;
    }
    Ok(options)
}

fn words_of(expression: &Expr) -> Result<Vec<String>> {
    let wrong = || Error::new(expression.span(), "expected a list of strings: `[\"a\", \"b\"]`");
    let Expr::Array(array) = expression else { return Err(wrong()) };
    let words = array.elems.iter().map(|word| match word {
        Expr::Lit(ExprLit { lit: Lit::Str(word), .. }) => Ok(word.value()),
        _ => Err(wrong()),
    });
    words.collect()
}

/// The JSON text of a literal, or of a list of them.
fn json_of(expression: &Expr) -> Result<String> {
    match expression {
        Expr::Array(array) => {
            let items: Result<Vec<_>> = array.elems.iter().map(json_of).collect();
            Ok(format!("[{}]", items?.join(",")))
        }
        Expr::Unary(unary) if matches!(unary.op, UnOp::Neg(_)) => {
            Ok(format!("-{}", json_of(&unary.expr)?))
        }
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Ok(json_string(&text.value())),
        Expr::Lit(ExprLit { lit: Lit::Bool(value), .. }) => Ok(value.value.to_string()),
        Expr::Lit(ExprLit { lit: Lit::Int(number), .. }) => Ok(number.base10_digits().to_owned()),
        Expr::Lit(ExprLit { lit: Lit::Float(number), .. }) => Ok(number.base10_digits().to_owned()),
        _ => Err(not_literal(expression)),
    }
}

/// An expression that makes the CBOR value of a literal, or of a list of them.
fn value_of(expression: &Expr, api: &TokenStream) -> Result<TokenStream> {
    match expression {
        Expr::Array(array) => {
            let items: Result<Vec<_>> =
                array.elems.iter().map(|item| value_of(item, api)).collect();
            let items = items?;
            Ok(quote!(#api::Value::Array(::std::vec![#(#items),*])))
        }
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => {
            Ok(quote!(#api::Value::Text(::std::string::String::from(#text))))
        }
        Expr::Lit(ExprLit { lit: Lit::Bool(value), .. }) => Ok(quote!(#api::Value::Bool(#value))),
        Expr::Lit(ExprLit { lit: Lit::Float(_), .. }) => {
            Ok(quote!(#api::Value::Float(#expression)))
        }
        Expr::Lit(ExprLit { lit: Lit::Int(_), .. }) => {
            Ok(quote!(#api::Value::Integer((#expression as i64).into())))
        }
        Expr::Unary(unary) => match &*unary.expr {
            Expr::Lit(ExprLit { lit: Lit::Float(_), .. }) => {
                Ok(quote!(#api::Value::Float(#expression)))
            }
            _ => Ok(quote!(#api::Value::Integer((#expression as i64).into()))),
        },
        _ => Err(not_literal(expression)),
    }
}

fn not_literal(expression: &Expr) -> Error {
    let text = "expected a literal, or a list of literals: the manifest is written by the compiler";
    Error::new(expression.span(), text)
}

fn json_string(text: &str) -> String {
    let mut json = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => json.extend(['\\', c]),
            '\n' => json.push_str("\\n"),
            c if c < ' ' => json.push_str(&format!("\\u{:04x}", c as u32)),
            c => json.push(c),
        }
    }
    json.push('"');
    json
}

fn name_of(field: &Field) -> String {
    let name = field.ident.as_ref().map(ToString::to_string).unwrap_or_default();
    name.strip_prefix("r#").unwrap_or(&name).to_owned()
}

/// The doc comment, its lines joined; paragraphs are kept apart by a line break.
fn doc_of(attributes: &[Attribute]) -> String {
    let mut doc = String::new();
    for attribute in attributes {
        let Meta::NameValue(meta) = &attribute.meta else { continue };
        let Expr::Lit(ExprLit { lit: Lit::Str(line), .. }) = &meta.value else { continue };
        if !meta.path.is_ident("doc") {
            continue;
        }
        let line = line.value();
        match line.trim() {
            "" => doc.push('\n'),
            line => {
                if !doc.is_empty() && !doc.ends_with('\n') {
                    doc.push(' ');
                }
                doc.push_str(line);
            }
        }
    }
    doc.trim().to_owned()
}
