//! Plugins written by hand in WebAssembly's text format, for cases that no compiler produces.

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// Wraps a core module into a component of the world `sockhop:plugin/plugin`. The module must have
/// the exports that the world requires.
pub fn handmade(module: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve
        .push_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../wit/v0.1"))
        .expect("the interface");
    let world = resolve.select_world(&[package], Some("plugin")).expect("its world");
    let mut module = wat::parse_str(module).expect("a core module");
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)
        .expect("a module that can be a component");
    ComponentEncoder::default()
        .module(&module)
        .expect("a module of the world")
        .encode()
        .expect("a component")
}

/// Returns a component as JavaScript's `componentize-qjs` makes it without `--sync`: it imports
/// `task.cancel`.
pub fn asynchronous() -> Vec<u8> {
    wat::parse_str("(component (core func (canon task.cancel)))").expect("a component")
}

/// Returns the plugin `nothing`. Its event `nothing` does nothing and has no reply.
pub fn do_nothing() -> Vec<u8> {
    handmade(
        r#"(module
            (import "sockhop:plugin/registry@0.1.1" "plugin" (func $plugin (param i32 i32 i32 i32 i32 i32 i32)))
            (import "sockhop:plugin/registry@0.1.1" "handles" (func $handles (param i32 i32 i32 i32 i32 i32 i32 i32)))
            (memory (export "memory") 1)
            (data (i32.const 0) "nothing1.0.0{}")

            ;; One event at a time: each is put where the one before was. What `register` needs lies before it.
            (global $free (mut i32) (i32.const 4096))
            (func (export "cabi_realloc") (param i32 i32 i32) (param $size i32) (result i32)
                (local $at i32)
                (local.set $at (global.get $free))
                (global.set $free (i32.and (i32.add (i32.add (local.get $at) (local.get $size)) (i32.const 7)) (i32.const -8)))
                (local.get $at))

            (func (export "register") (result i32)
                (call $plugin (i32.const 0) (i32.const 7) (i32.const 7) (i32.const 5) (i32.const 0) (i32.const 0) (i32.const 1024))
                (call $handles (i32.const 0) (i32.const 7) (i32.const 12) (i32.const 2)
                    (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 1024))
                (i32.const 2048))

            (func (export "handle") (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
                (global.set $free (i32.const 4096))
                ;; What is there is zero: ok(none).
                (i32.const 2048)))"#,
    )
}

/// Returns the same plugin under another name, which is also the name of its event.
pub fn do_nothing_as(number: usize) -> (String, Vec<u8>) {
    let name = format!("noth{number:03}");
    let mut bytes = do_nothing();
    let place = bytes
        .windows(12)
        .position(|window| window == b"nothing1.0.0")
        .expect("the place of its name");
    bytes[place..place + name.len()].copy_from_slice(name.as_bytes());
    (name, bytes)
}

/// Returns the plugin `tables`. Its event `fill` grows a table until the host refuses, and replies
/// with the number of elements.
pub fn table_filler() -> Vec<u8> {
    handmade(
        r#"(module
            (import "sockhop:plugin/registry@0.1.1" "plugin" (func $plugin (param i32 i32 i32 i32 i32 i32 i32)))
            (import "sockhop:plugin/registry@0.1.1" "handles" (func $handles (param i32 i32 i32 i32 i32 i32 i32 i32)))
            (memory (export "memory") 1)
            (table $table 0 funcref)
            (data (i32.const 0) "tables1.0.0fill{}")
            (global $free (mut i32) (i32.const 4096))

            (func (export "cabi_realloc") (param i32 i32 i32) (param $size i32) (result i32)
                (local $at i32)
                (local.set $at (global.get $free))
                (global.set $free (i32.and (i32.add (i32.add (local.get $at) (local.get $size)) (i32.const 7)) (i32.const -8)))
                (local.get $at))

            (func (export "register") (result i32)
                (call $plugin (i32.const 0) (i32.const 6) (i32.const 6) (i32.const 5) (i32.const 0) (i32.const 0) (i32.const 1024))
                (call $handles (i32.const 11) (i32.const 4) (i32.const 15) (i32.const 2)
                    (i32.const 1) (i32.const 15) (i32.const 2) (i32.const 1024))
                ;; What is there is zero: ok.
                (i32.const 2048))

            (func (export "handle") (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
                (local $left i32) (local $at i32)
                (loop $more
                    (br_if $more (i32.ne (table.grow $table (ref.null func) (i32.const 16)) (i32.const -1))))
                ;; The number in decimal, from its last digit to its first.
                (local.set $left (table.size $table))
                (local.set $at (i32.const 3100))
                (loop $digit
                    (local.set $at (i32.sub (local.get $at) (i32.const 1)))
                    (i32.store8 (local.get $at) (i32.add (i32.const 48) (i32.rem_u (local.get $left) (i32.const 10))))
                    (local.set $left (i32.div_u (local.get $left) (i32.const 10)))
                    (br_if $digit (local.get $left)))
                ;; ok(some(text))
                (i32.store (i32.const 2052) (i32.const 1))
                (i32.store (i32.const 2056) (local.get $at))
                (i32.store (i32.const 2060) (i32.sub (i32.const 3100) (local.get $at)))
                (i32.const 2048)))"#,
    )
}
