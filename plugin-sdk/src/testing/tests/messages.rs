//! Tests of whole messages: lists of arguments, attachments of replies, handshakes.

use serde_json::{Value, json};
use sockhop_core::limits;

use crate::testing::{Effect, TestHost};
use crate::{Args, Context, Emits, Message, Plugin, Refusal, Result, Route, Target};

const MOVED: Emits<Args<(u32, String)>> = Emits::new("moved");

fn load(plugin: Plugin) -> std::result::Result<TestHost, String> {
    TestHost::try_new(plugin).map_err(|error| error.to_string())
}

fn plugin() -> Plugin {
    Plugin::new("test", "1.0.0", "")
}

#[test]
fn each_message_has_its_own_number_of_arguments() {
    fn both(ctx: &Context, Args((x, y)): Args<(u32, String)>) -> Result<Args<(String, u32)>> {
        ctx.emit(Target::Sender, &MOVED, &Args((x, y.clone())))?;
        Ok(Args((y, x)))
    }
    fn one(_: &Context, Args(all): Args<Vec<Value>>) -> Result<usize> {
        Ok(all.len())
    }
    fn list(_: &Context, count: usize) -> Result<Args<Vec<usize>>> {
        Ok(Args((0..count).collect()))
    }
    let mut host =
        TestHost::new(plugin().on("both", both).on("one", one).on("list", list).emits(MOVED));
    let outcome = host.handle("both", json!([1, "a"]));
    assert_eq!(outcome.reply, Ok(json!(["a", 1])));
    assert_eq!(outcome.effects, [Effect::emit(Target::Sender, "moved", json!([1, "a"]))]);
    for wrong in [json!([1]), json!([1, "a", 2]), json!({"x": 1}), json!(null)] {
        assert_eq!(host.handle("both", wrong).reply.unwrap_err().code, "invalid_payload");
    }
    assert_eq!(host.handle("one", json!([[1, 2], 3])).reply, Ok(json!(2)));
    assert_eq!(host.handle("one", json!(7)).reply.unwrap_err().code, "invalid_payload");
    assert_eq!(host.handle("list", json!(2)).reply, Ok(json!([0, 1])));
}

#[test]
fn json_messages_can_be_lists_too() {
    let any = || Some("true".to_owned());
    let listed = plugin()
        .on_json("echo", "true", any(), |_, data| Ok(Some(data.to_owned())))
        .arguments(Message::Reply, "echo")
        .requires(crate::Access::Authenticated);
    let mut host = TestHost::new(listed);
    assert_eq!(host.handle("echo", json!([1])).reply.unwrap_err().code, "unauthorized");
    host.user("ada");
    assert_eq!(host.handle("echo", json!([1])).reply, Ok(json!([1])));
    for wrong in [json!({}), json!([{"error": 1}])] {
        assert_eq!(host.handle("echo", wrong).reply.unwrap_err().code, "plugin_failed");
    }
    let refused = load(plugin().arguments(Message::Emit, "nobody"));
    assert!(refused.unwrap_err().contains("`nobody`"));
}

#[test]
fn an_event_with_a_list_has_no_route() {
    fn add(_: &Context, Args((a, b)): Args<(u32, u32)>) -> Result<u32> {
        Ok(a + b)
    }
    let refused = load(plugin().on("sum", add).route(Route::Post("/sums"), "sum")).unwrap_err();
    assert!(refused.contains("`POST /sums`") && refused.contains("list of arguments"), "{refused}");
}

#[test]
fn a_reply_has_the_attachments_that_its_placeholders_name() {
    fn pack(
        ctx: &Context,
        (sizes, named): (Vec<usize>, Vec<u32>),
    ) -> Result<Vec<crate::Attachment>> {
        for size in sizes {
            ctx.attach(&vec![7; size])?;
        }
        Ok(named.into_iter().map(crate::Attachment::new).collect())
    }
    fn refuse(ctx: &Context, _: ()) -> Result {
        ctx.attach(&[1])?;
        Err(Refusal::not_found("as asked"))
    }
    let started = |ctx: &Context| ctx.attach(&[1]).map(drop);
    let packing = plugin().on("pack", pack).on("refuse", refuse).on_start(started);
    let mut host = TestHost::new(packing);
    let mut pack = |sizes: &[usize], named: &[u32]| {
        let reply = host.handle("pack", json!([sizes, named])).reply;
        reply.map(|_| host.reply_attachments().to_vec()).map_err(|refusal| refusal.code)
    };
    assert_eq!(pack(&[2, 0], &[1, 0]), Ok(vec![vec![7, 7], vec![]]));
    assert_eq!(pack(&[], &[0]), Ok(vec![]), "plain JSON");
    for (sizes, named) in [(&[1][..], &[][..]), (&[1], &[1]), (&[1, 1], &[0])] {
        assert_eq!(pack(sizes, named), Err("plugin_failed".to_owned()), "{sizes:?} {named:?}");
    }
    let limit = Err("limit".to_owned());
    assert_eq!(pack(&[1; limits::ATTACHMENTS + 1], &[0, 1, 2, 3, 4]), limit);
    assert_eq!(pack(&[limits::ATTACHMENT_BYTES + 1], &[0]), limit);
    host.handle("pack", json!([[1], [0]]));
    host.handle("refuse", json!(null));
    assert!(host.reply_attachments().is_empty());
    assert_eq!(host.start().reply.unwrap_err().code, "misuse", "a host event has no reply");
}

#[test]
fn only_a_plugin_that_asks_reads_the_handshake_of_its_caller() {
    fn handshake(ctx: &Context, _: ()) -> Result<(Value, Value)> {
        Ok((ctx.auth()?, json!(ctx.query()?)))
    }
    let mut unasked = TestHost::new(plugin().on("handshake", handshake));
    assert_eq!(unasked.handle("handshake", json!(null)).reply.unwrap_err().code, "misuse");
    let mut host = TestHost::new(plugin().handshake().on("handshake", handshake));
    let read = |host: &mut TestHost| host.handle("handshake", json!(null)).reply.unwrap();
    assert_eq!(read(&mut host), json!([{}, []]));
    host.handshake(json!({"token": "secret", "a": 1}), "EIO=4&b=c%20d");
    assert_eq!(read(&mut host), json!([{"a": 1}, [["b", "c d"]]]));
    assert_eq!(read(host.connection("c2")), json!([{}, []]));
    host.handshake(json!({"a": "x".repeat(limits::HANDSHAKE_BYTES)}), "");
    assert_eq!(read(&mut host), json!([null, null]));
}
