// What may be changed about a device, by those whose token permits it: its timeout, and whether
// it is registered.
import { html, useEffect, useRef, useSignal } from '../html.js';
import { change, remove } from '../api.js';
import { duration } from '../format.js';
import { summary } from '../live.js';
import { strings } from '../strings.js';
import { Foreign, Id } from '../parts.js';

export function Change({ base, device, onChanged, onRemoved }) {
  const text = strings.change;
  const own = device.timeout_seconds === null ? '' : `${device.timeout_seconds}`;
  const typed = useSignal(own);
  const trouble = useSignal(null);
  const done = useSignal(false);
  const waiting = useSignal(false);
  const dialog = useRef(null);
  useEffect(() => { typed.value = own; }, [own]);

  async function run(work) {
    waiting.value = true;
    trouble.value = null;
    done.value = false;
    try {
      await work();
    } catch (problem) {
      trouble.value = problem.message;
    }
    waiting.value = false;
  }
  // What was said is about what was set, not about what is being typed.
  const type = (event) => {
    typed.value = event.target.value;
    done.value = false;
    trouble.value = null;
  };
  const submit = (event) => {
    event.preventDefault();
    run(async () => {
      const seconds = typed.value.trim();
      if (!/^\d*$/.test(seconds)) throw new Error(text.wrong);
      await change(base, { timeout_seconds: seconds === '' ? null : Number(seconds) });
      done.value = true;
      onChanged();
    });
  };
  const removal = () => {
    dialog.current.close();
    run(async () => onRemoved(await remove(base)));
  };
  const standard = summary.value?.timeout_seconds;
  return html`
    <section class="change" aria-labelledby="change"><h2 id="change">${text.title}</h2>
      <form onSubmit=${submit}>
        <label for="timeout">${text.timeout}</label>
        <input id="timeout" inputmode="numeric" autocomplete="off" maxlength="20"
          value=${typed.value} onInput=${type}
          aria-describedby="timeout-hint change-trouble" />
        <button type="submit" disabled=${waiting.value}>${text.set}</button>
        <button type="button" class="danger" data-remove disabled=${waiting.value}
          onClick=${() => dialog.current.showModal()}>${text.remove}</button>
      </form>
      <p id="timeout-hint" class="quiet">${text.hint(standard ? duration(standard) : '–')}</p>
      <p id="change-trouble" class="trouble" role="alert" hidden=${!trouble.value}>${
        trouble.value && html`<${Foreign} text=${trouble.value} />`}</p>
      <p role="status" class="quiet">${done.value && text.done}</p>
      <dialog ref=${dialog} aria-labelledby="removal" aria-describedby="removal-means">
        <h2 id="removal">${text.sure} <${Id} id=${device.id} />?</h2>
        <p id="removal-means">${text.means}</p>
        <p class="choice">
          <button type="button" autofocus onClick=${() => dialog.current.close()}>${text.keep}</button>
          <button type="button" class="danger" data-sure onClick=${removal}>${text.removeNow}</button></p>
      </dialog>
    </section>`;
}
