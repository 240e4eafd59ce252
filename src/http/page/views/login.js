// Asks for a token. The service answers with a cookie that no script can read.
import { html, useSignal } from '../html.js';
import { loginAsked, loginWanted, post } from '../api.js';
import { strings } from '../strings.js';
import { Heading } from '../parts.js';

export function Login() {
  const trouble = useSignal(null);
  const waiting = useSignal(false);
  async function submit(event) {
    event.preventDefault();
    const token = new FormData(event.target).get('token').trim();
    if (!token) return;
    waiting.value = true;
    try {
      await post('/login', { token });
      loginWanted.value = false;
      location.reload(); // everything asks anew, with the cookie
    } catch (problem) {
      trouble.value = problem.status === 401 ? strings.login.wrong : problem.message;
    }
    waiting.value = false;
  }
  return html`
    <form class="login" onSubmit=${submit}>
      <${Heading} focusKey="login">${loginWanted.value ? strings.login.title : strings.login.action}</${Heading}>
      <p class="quiet">${strings.login.lead}<br />
        <code>${strings.login.command(loginWanted.value ? 'read' : 'operate')}</code></p>
      <label for="token">${strings.login.label}</label>
      <input id="token" name="token" type="password" autocomplete="current-password"
        spellcheck="false" required autofocus aria-describedby="login-trouble" />
      <p id="login-trouble" class="trouble" role="alert" hidden=${!trouble.value}>${trouble.value}</p>
      <button type="submit" disabled=${waiting.value}>${strings.login.action}</button>
      ${!loginWanted.value && html`
        <button type="button" class="link" onClick=${() => { loginAsked.value = false; }}>${strings.login.back}</button>`}
    </form>`;
}

export const logOut = async () => {
  await post('/logout').catch(() => {});
  location.reload();
};
