"""Style and script of the report's page. Without the script everything is there; with it, it can be searched."""

CSS = """
:root { color-scheme: light dark; --ink: #1f2933; --soft: #5f6c7b; --line: #dfe4ea; --paper: #fff; --panel: #f5f7fa; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e9ef; --soft: #98a6b5; --line: #33404d; --paper: #14191f;
  --panel: #1d242c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.5rem 4rem; max-width: 76rem; background: var(--paper); color: var(--ink);
  font: 15px/1.45 system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
h1 { margin: 0; font-size: 1.6rem; } h2 { margin: 2.2rem 0 .6rem; font-size: 1.1rem; }
.sub { margin: .1rem 0 1.2rem; color: var(--soft); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; margin: 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.alert { color: var(--skipped); font-weight: 600; }
.frozen { background-image: repeating-linear-gradient(45deg, transparent 0 3px, var(--hatch) 3px 5px); }
:root { --hatch: rgb(255 255 255 / .6); }
.legend { display: flex; flex-wrap: wrap; gap: .5rem 1.6rem; margin: 0 0 .9rem; padding: 0; list-style: none; }
.legend i { display: inline-block; width: .85rem; height: .85rem; margin-right: .45rem; border-radius: 2px;
  vertical-align: -.1rem; }
.legend .frozen { background-color: var(--soft); } .legend small { color: var(--soft); font-size: .87em; }
.map { position: relative; overflow: hidden; border-radius: 4px; background: var(--panel); }
.map div { position: absolute; }
.module { height: 1.5rem; overflow: hidden; padding: 0 .35rem; border: solid var(--paper); border-width: 0 1px 1px 0;
  background: var(--line); white-space: nowrap; text-overflow: ellipsis; font-size: .8rem; line-height: 1.45rem; }
.module.narrow { padding: 0; color: transparent; }
.part { height: 2.2rem; }
.tree { border-top: 1px solid var(--line); font-size: .9rem; }
.row { display: grid; grid-template-columns: minmax(0, 1fr) 22% 5rem 10.5rem 15rem; gap: 0 .9rem; align-items: center;
  padding: .16rem 0; border-bottom: 1px solid var(--line); }
.head { color: var(--soft); font-size: .8rem; }
summary { cursor: pointer; list-style: none; } summary::-webkit-details-marker { display: none; }
summary:hover, .leaf:hover { background: var(--panel); }
.name { padding-left: calc(var(--d) * 1.1rem + 1rem); overflow-wrap: anywhere; }
summary .name { font-weight: 600; }
summary .name::before { content: "\\25B8"; display: inline-block; width: 1rem; margin-left: -1rem; color: var(--soft); }
details[open] > summary .name::before { content: "\\25BE"; }
.bar { display: flex; height: .8rem; background: var(--panel); border-radius: 2px; overflow: hidden; }
.head .bar { background: none; }
.bar i { min-width: 2px; height: 100%; }
.size { text-align: right; font-variant-numeric: tabular-nums; }
.kind, .why { color: var(--soft); overflow-wrap: anywhere; font-size: .94em; }
.why b { color: var(--ink); font-weight: 600; }
.tools { display: flex; gap: .5rem; margin: .2rem 0 .7rem; }
.tools[hidden] { display: none; }
.tools input { flex: 1; max-width: 22rem; }
.tools input, .tools button { padding: .25rem .6rem; border: 1px solid var(--line); border-radius: 4px; font: inherit;
  background: var(--paper); color: var(--ink); }
.away { display: none; }
footer { margin-top: 2.5rem; color: var(--soft); font-size: .85rem; }
@media (max-width: 52rem) { .row { grid-template-columns: minmax(0, 1fr) 5rem 9rem; }
  .row .bar, .row .kind { display: none; } }
@media print { body { max-width: none; } .tools { display: none; } * { print-color-adjust: exact; } }
"""

SCRIPT = """
for (const tools of document.querySelectorAll(".tools")) {
  const tree = tools.nextElementSibling, [filter, open, close] = tools.children;
  const unfold = (wanted) => tree.querySelectorAll("details").forEach((each) => { each.open = wanted; });
  tools.hidden = false;
  open.onclick = () => unfold(true);
  close.onclick = () => unfold(false);
  filter.oninput = () => {
    const words = filter.value.toLowerCase().split(/\\s+/).filter(Boolean);
    for (const leaf of tree.querySelectorAll(".leaf"))
      leaf.classList.toggle("away", !words.every((word) => leaf.dataset.find.includes(word)));
    for (const branch of [...tree.querySelectorAll("details")].reverse()) {
      const empty = !branch.querySelector(".leaf:not(.away)");
      branch.classList.toggle("away", empty);
      if (words.length) branch.open = !empty;
    }
  };
}
"""
