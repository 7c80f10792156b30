// The playground's style. Its colours are the page's own, in both themes.

export const STYLE = `
:host { display: block; container-type: inline-size; margin: 1rem 0;
  --ink: var(--pst-color-text-base, #1f2328); --soft: var(--pst-color-text-muted, #57606a);
  --back: var(--pst-color-background, #fff); --card: var(--pst-color-surface, #f5f6f8);
  --line: var(--pst-color-border, #c9d1d9); --link: var(--pst-color-link, #0b57d0);
  color: var(--ink); font: 1rem/1.45 var(--pst-font-family-base, system-ui, sans-serif); }
* { box-sizing: border-box; }
[hidden] { display: none !important; }
button, input, select, textarea { font: inherit; color: inherit; }
button { cursor: pointer; }
:is(button, input, select, textarea, canvas, label.swatch:has(input)):focus-visible, label.swatch:has(:focus-visible) {
  outline: 3px solid var(--link); outline-offset: 2px; }
.ask { display: flex; gap: .6rem; align-items: stretch; margin: 0; }
.ask label { flex: 1; min-width: 0; }
.ask input { width: 100%; height: 3.4rem; padding: 0 1.1rem; border: 2px solid var(--line); border-radius: 1.7rem;
  background: var(--back); font-size: 1.25rem; }
.go { flex: none; min-width: 7.5rem; height: 3.4rem; padding: 0 1.6rem; border: 0; border-radius: 1.7rem; color: #fff;
  background: #0b57d0; font-size: 1.25rem; font-weight: 700; transition: transform .1s; }
.go:hover { background: #0842a0; }
.go:active { transform: scale(.96); }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
.row { display: flex; flex-wrap: wrap; gap: .4rem; align-items: center; margin: .6rem 0 0; padding: 0; list-style: none; }
.pieces { min-height: 2.1rem; }
.near { display: grid; grid-template-columns: max-content max-content minmax(0, 1fr); gap: .25rem 1.2rem; margin: .6rem 0 0; }
.near > :nth-child(-n + 3) { font-weight: 600; color: var(--soft); font-family: inherit; }
.near dt, .near dd { margin: 0; font-weight: 400; font-variant-numeric: tabular-nums; }
.near dt { font-family: var(--pst-font-family-monospace, monospace); }
.row > .hint { color: var(--soft); font-size: .9rem; }
.piece, .idea, .small { border: 1px solid var(--line); border-radius: 1rem; background: var(--card); padding: .15rem .7rem;
  font-size: .95rem; line-height: 1.5; }
.piece { border-radius: .4rem; font-family: var(--pst-font-family-monospace, monospace); }
.piece.part { border-right-style: dotted; margin-right: -.35rem; }
.piece.strange { border-style: dashed; color: var(--soft); text-decoration: line-through; }
.piece:is(:hover, :focus-visible, [aria-pressed=true]):not(.strange) { border-color: var(--link); color: var(--link); }
.idea { background: none; color: var(--link); border-color: transparent; padding-inline: .4rem; }
.idea:hover, .small:hover { text-decoration: underline; }
.desk { display: grid; grid-template-columns: minmax(0, 24rem) minmax(0, 1fr); gap: 1.4rem; margin-top: 1rem; }
.stage { position: relative; width: 100%; border-radius: 1.1rem; overflow: hidden; background: var(--card);
  box-shadow: 0 0 0 1px var(--line); }
.stage canvas { display: block; width: 100%; height: auto; }
.stage .map { position: absolute; inset: 0; height: 100%; pointer-events: none; }
.crisp { image-rendering: pixelated; }
.load { position: absolute; inset: auto 0 0 0; height: .5rem; background: #0003; }
.load > div { height: 100%; width: 0; background: #0b57d0; transition: width .15s; }
.bar { display: flex; gap: .6rem; align-items: center; margin-top: .5rem; }
.bar input { flex: 1; min-width: 0; height: 2.5rem; accent-color: var(--link); }
.play { flex: none; width: 2.5rem; height: 2.5rem; padding: 0; border: 1px solid var(--line); border-radius: 50%;
  background: var(--back); color: var(--link); display: grid; place-items: center; }
.play svg { width: 1.1rem; height: 1.1rem; fill: currentColor; }
.said { margin: .2rem 0 0; min-height: 1.45em; font-variant-numeric: tabular-nums; color: var(--soft); font-size: .95rem; }
.said b { color: var(--ink); }
.knobs { display: grid; gap: .75rem; align-content: start; }
.knob { display: grid; grid-template-columns: 6.5rem minmax(0, 1fr) auto; gap: .2rem .7rem; align-items: center; }
.knob > span:first-child { font-weight: 600; }
.knob input[type=range] { width: 100%; height: 2rem; accent-color: var(--link); }
.knob output { min-width: 2.2em; text-align: right; font-variant-numeric: tabular-nums; }
.knob :is(input[type=text], input[type=number], select) { width: 100%; height: 2.4rem; padding: 0 .7rem; min-width: 0;
  border: 1px solid var(--line); border-radius: .6rem; background: var(--back); grid-column: 2 / -1; }
.knob input[type=number] { grid-column: 2; }
.dice { width: 2.6rem; height: 2.4rem; border: 1px solid var(--line); border-radius: .6rem; background: var(--card);
  padding: 0; display: grid; place-items: center; }
.dice svg { width: 1.4rem; height: 1.4rem; fill: currentColor; }
.choices { display: flex; flex-wrap: wrap; gap: .2rem 1rem; grid-column: 2 / -1; }
.choices label, .tick { display: flex; gap: .4rem; align-items: center; min-height: 2rem; }
.choices input, .tick input { width: 1.1rem; height: 1.1rem; accent-color: var(--link); }
.pad { display: flex; flex-wrap: wrap; gap: .8rem; padding: .8rem; border-radius: .8rem; background: var(--card); }
.paper { position: relative; flex: 0 1 13rem; touch-action: none; cursor: crosshair; align-self: start; }
.paper canvas { display: block; width: 100%; height: auto; border-radius: .5rem; box-shadow: 0 0 0 1px var(--line);
  background: #fff; touch-action: none; }
.cursor { position: absolute; width: 12.5%; aspect-ratio: 1; border-radius: 50%; border: 2px solid #000; outline: 2px solid #fff;
  translate: -50% -50%; pointer-events: none; }
.tools { flex: 1 1 9rem; display: grid; gap: .6rem; align-content: start; }
.swatches { display: flex; flex-wrap: wrap; gap: .35rem; border: 0; margin: 0; padding: 0; }
.swatch { width: 1.9rem; height: 1.9rem; border-radius: 50%; box-shadow: 0 0 0 1px var(--line); position: relative; }
.swatch input { position: absolute; inset: 0; opacity: 0; margin: 0; width: 100%; height: 100%; cursor: pointer; }
.swatch:has(:checked) { box-shadow: 0 0 0 2px var(--back), 0 0 0 5px var(--ink); }
.small { cursor: pointer; color: var(--ink); display: inline-block; }
.inside { margin: 1.4rem 0 0; }
.inside h2, .take h2 { font-size: 1.15rem; line-height: 1.3; margin: 0 0 .5rem; font-weight: 600; }
.panels { display: grid; grid-template-columns: repeat(5, minmax(0, 1fr)); gap: .6rem; }
.panels.two { grid-template-columns: repeat(2, minmax(0, 16rem)); margin-top: 1rem; }
.panels figure { margin: 0; text-align: center; }
.panels canvas { display: block; width: 100%; height: auto; border-radius: .6rem; box-shadow: 0 0 0 1px var(--line);
  background: var(--card); }
.panels figcaption { margin-top: .3rem; font-size: .85rem; line-height: 1.3; color: var(--soft); }
.panels b { display: block; color: var(--ink); font-weight: 600; }
.sum { margin: .6rem 0 0; color: var(--soft); font-size: .95rem; }
.take { margin-top: 1.4rem; }
.take .row { margin: 0 0 .6rem; }
pre { margin: 0; padding: .8rem 1rem; overflow-x: auto; border-radius: .6rem; background: var(--card); color: var(--ink);
  font: .85rem/1.5 var(--pst-font-family-monospace, monospace); white-space: pre-wrap; overflow-wrap: anywhere; }
.status { margin: .2rem 0 0; color: var(--soft); font-size: .95rem; min-height: 2.9em; }
.tools .status:empty { display: none; }
.status.trouble { color: var(--pst-color-danger, #b3261e); }
@container (max-width: 40rem) {
  .desk { grid-template-columns: minmax(0, 1fr); gap: 1rem; }
  .ask { flex-wrap: wrap; }
  .ask label { flex-basis: 100%; }
  .ask input { font-size: 1.1rem; height: 3rem; }
  .go { width: 100%; height: 3rem; }
  .panels { grid-template-columns: repeat(2, minmax(0, 1fr)); }
}
@media (prefers-reduced-motion: reduce) { * { transition: none !important; } }`;
