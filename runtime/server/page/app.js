// The flow: picture, recording, list, sentence. One state is shown at a time.

import { inWords, itemOf } from "./alternatives.js";
import { formOf, Server, Trouble } from "./api.js";
import { Keeping } from "./keeping.js";
import { Camera, fitting, Gallery } from "./pictures.js";
import { Recorder } from "./recorder.js";
import { Scanner } from "./scanning.js";
import { loadSettings, saveSettings } from "./settings.js";
import { Voice } from "./voice.js";

const MODEL = "whisper-1";
const MOST = 5; // sentences of a list
const TREMOR_MS = 400; // a second press that soon after a change is no choice
const QUIET_DBFS = -45; // loudest 0.1 s
const CLIPPED = 0.001; // share of the samples
const LEAST_COMPARED = 16; // pictures, from which on a wrong one is told
const MOST_BETTER = 0.5; // share of them that may fit better than the right one
const TOKEN = /^[\x21-\x7e]+$/; // what a header can carry
const PACES = [0.7, 1, 1.5, 2, 3, 4, 6, 8]; // seconds

const $ = (id) => document.getElementById(id);
const now = { state: null, since: 0, asked: null, picture: null, recording: null, alternatives: [], result: null };
const effort = { since: 0, taps: 0 }; // what a sentence costs, from its picture on
const settings = loadSettings();

// First of all listeners, so that a trembling hand does not choose twice.
addEventListener(
  "click",
  (event) => {
    if (!event.isTrusted || !tooSoon()) return;
    event.preventDefault();
    event.stopImmediatePropagation();
  },
  true,
);
for (const type of ["pointerdown", "keydown"])
  addEventListener(type, (event) => event.repeat || (effort.taps += 1), true);
const scanner = new Scanner(tooSoon);
const recorder = new Recorder();
const server = new Server(askToken, (seconds) => say(`The server is busy. It is asked again in ${seconds} seconds.`));
const gallery = new Gallery($("grid"), pick);
const camera = new Camera($("camera"), $("viewfinder"));
const keeping = new Keeping(server, settings, say);
const voice = new Voice(say);

function tooSoon() {
  return performance.now() - now.since < TREMOR_MS;
}

// -- states ---------------------------------------------------------------------------------------------------

const FOCUS = { speak: "record", listening: "stop", type: "typed", token: "token" };

function show(state) {
  const isFirst = now.state === null;
  if (state === "list") now.isNone = false;
  [now.before, now.state, now.since] = [now.state, state, performance.now()];
  for (const section of document.querySelectorAll("[data-state]")) section.hidden = section.dataset.state !== state;
  $("picked").hidden = ["choose", "token"].includes(state);
  $("picture").hidden = !now.picture;
  $("change").hidden = ["listening", "working"].includes(state);
  $("change").textContent = now.picture ? "Change the picture" : "Choose a picture";
  $("back-to-list").hidden = !now.alternatives.length;
  $("trouble-back").textContent = now.alternatives.length ? "Back to the list" : "Back";
  $("send-kept").hidden = !now.aside;
  voice.hush();
  const mayType = !settings.oneSwitch || !["type", "token"].includes(state);
  if (!isFirst) $(mayType && FOCUS[state] ? FOCUS[state] : `${state}-title`).focus();
  scanner.restart();
}

function say(text) {
  $("status").textContent = text;
}

// For ears alone, of what eyes see anyway.
function tell(text) {
  const span = document.createElement("span");
  span.className = "heard";
  span.textContent = text;
  $("status").replaceChildren(span);
}

// `retry` is what the button Try again does; without, there is no such button.
function trouble(error, retry) {
  error = told(error);
  now.retry = retry;
  $("retry").hidden = !retry;
  $("trouble-play").hidden = !now.recording;
  $("trouble-back").hidden = retry === open;
  $("trouble-title").textContent = error.message;
  $("trouble-next").textContent = error.next;
  show("trouble");
  tell(error.next);
}

function told(error) {
  if (error instanceof Trouble) return error;
  console.error(error);
  return new Trouble("This page has made a mistake.", "Load the page again. If it happens again, tell whoever runs the server.");
}

function askToken(wasWrong) {
  now.token ??= tokenTyped(wasWrong).finally(() => (now.token = null));
  return now.token;
}

function tokenTyped(wasWrong) {
  const back = now.state;
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
  showToken(wasWrong ? "The server does not know this token. Type it again, or ask whoever runs the server." : "");
  return new Promise((resolve) => {
    $("token-form").onsubmit = (event) => {
      event.preventDefault();
      const token = $("token").value.trim();
      $("token").value = "";
      if (!TOKEN.test(token))
        return showToken("A token has only letters from a to z, digits and signs. Check the language of the keyboard, then type it again.");
      say("");
      if (back) show(back);
      resolve(token);
    };
  });
}

function showToken(complaint) {
  $("token-trouble").textContent = complaint;
  $("token-trouble").hidden = !complaint;
  $("token").setAttribute("aria-invalid", Boolean(complaint));
  show("token");
  tell(complaint);
}

// -- picture --------------------------------------------------------------------------------------------------

async function open() {
  try {
    gallery.pictures = (await server.ask("/v1/gallery")).data;
    turnTo(0);
    await keeping.open();
    show("choose");
  } catch (error) {
    trouble(error, open);
  }
}

function turnTo(page) {
  gallery.show(page);
  $("pages").hidden = gallery.pages === 1;
  $("earlier").disabled = gallery.page === 0;
  $("more").disabled = gallery.page === gallery.pages - 1;
  $("page-number").textContent = `Page ${gallery.page + 1} of ${gallery.pages}`;
  scanner.restart();
}

// Choose another picture; what was said and is not settled yet is heard again with it.
function change() {
  if (now.state === "done") forget();
  const isOpen = Boolean(now.recording) && !now.isNone;
  now.again = isOpen && (now.alternatives.length > 0 || now.state === "trouble");
  if (isOpen && !now.again) now.aside = now.recording;
  show("choose");
}

// What is noted is sent before the next sentence begins.
function forget() {
  now.aside = null;
  forgetSentence();
}

function forgetSentence() {
  keeping.settle();
  Object.assign(now, { recording: null, alternatives: [], result: null, again: false, isNone: false });
}

async function pick(picture) {
  now.picture = picture;
  if (picture) {
    $("picture").src = picture.url;
    $("picture").alt = `Picture ${picture.name}`;
  }
  if (now.again) return recognise();
  forgetSentence();
  begin();
}

function begin() {
  Object.assign(effort, { since: performance.now(), taps: 0 });
  show("speak");
  say("");
}

async function bring(file, name) {
  show("working");
  say("The picture is sent.");
  const given = signal();
  const blob = await fitting(file);
  const picture = { name, blob, url: URL.createObjectURL(blob) };
  try {
    await send(picture, given);
  } catch (error) {
    if (error.name === "AbortError") return show("choose");
    return trouble(error, () => bring(file, name));
  }
  pick(picture);
}

async function send(picture, given) {
  const form = formOf({ file: picture.blob });
  picture.id = (await server.ask("/v1/pictures", { method: "POST", form, signal: given })).id;
}

function signal() {
  now.abort = new AbortController();
  return now.abort.signal;
}

// -- recording ------------------------------------------------------------------------------------------------

// The microphone may take long, and the speaker go on meanwhile: what was there stays until it runs, and it runs only
// where it was asked for. `asked` is when that screen came.
async function record() {
  const isStarting = now.asked !== null;
  now.asked = now.since;
  if (isStarting) return;
  say("Allow the microphone if the browser asks.");
  let level = -Infinity;
  let failed = null;
  try {
    await recorder.start(settings, (dbfs, peak, seconds) => {
      level = Math.max(dbfs, level - 1.5);
      showLevel(level, peak, seconds);
    }, stop);
  } catch (error) {
    failed = microphoneTrouble(error);
  }
  const isHere = now.asked === now.since;
  now.asked = null;
  if (failed) return isHere ? trouble(failed, record) : say(told(failed).message);
  if (!isHere) {
    recorder.release();
    return say("Nothing is recorded, since you went on. Press Record when you want to speak.");
  }
  forget();
  show("listening");
  say("Recording. Press Stop when you have finished.");
}

function showLevel(dbfs, peak, seconds) {
  const share = Math.max(0, Math.min(1, 1 + dbfs / 60));
  $("level-bar").style.transform = `scaleX(${share})`;
  $("level").setAttribute("aria-valuenow", Math.round(100 * share));
  const words = peak >= 0.99 ? "Too loud" : dbfs < -60 ? "Nothing yet" : dbfs < QUIET_DBFS ? "Quiet" : "Good";
  if ($("level-text").textContent !== words) $("level-text").textContent = words;
  if ($("seconds").textContent !== `${Math.floor(seconds)}`) $("seconds").textContent = Math.floor(seconds);
}

const MICROPHONE = {
  NotAllowedError: [
    "The browser may not use the microphone.",
    "Press the sign beside the address, allow the microphone, then press Try again. Or use a sound file.",
  ],
  NotFoundError: ["No microphone was found.", "Plug one in or switch it on, then press Try again. Or use a sound file."],
  NotReadableError: ["The microphone cannot be used.", "Close other programs that record, then press Try again."],
  SecurityError: [
    "The browser gives the microphone to secure pages alone.",
    "Open this page with https, or on the computer that runs the server. Or use a sound file.",
  ],
};

function microphoneTrouble(error) {
  return MICROPHONE[error.name] ? new Trouble(...MICROPHONE[error.name]) : error;
}

async function stop() {
  if (now.state !== "listening") return;
  show("working");
  now.recording = await recorder.stop();
  if (now.recording.peak === 0) return trouble(nothingHeard(now.recording));
  recognise();
}

async function putAside() {
  if (now.state !== "listening") return;
  show("working");
  now.aside = await recorder.stop();
  show("speak");
  say("The recording is put aside.");
}

function useRecording(recording) {
  forget();
  now.recording = recording;
  recognise();
}

// -- recognition ----------------------------------------------------------------------------------------------

async function recognise() {
  now.again = false;
  now.alternatives = [];
  show("working");
  say("This may take some seconds.");
  let answer;
  try {
    answer = await transcribe(signal());
  } catch (error) {
    if (error.name !== "AbortError") return trouble(error, recognise);
    now.aside = now.recording;
    show("speak");
    return say("Cancelled. The recording is put aside.");
  }
  now.alternatives = inWords(answer.earsight.alternatives).slice(0, MOST);
  if (!now.alternatives.some(({ display }) => display)) {
    now.alternatives = [];
    return trouble(nothingHeard(now.recording));
  }
  list();
  doubtSound(now.recording);
  doubtPicture(now.alternatives);
}

async function transcribe(given) {
  const ask = () =>
    server.ask("/v1/audio/transcriptions", {
      method: "POST",
      form: formOf({
        file: now.recording.wav,
        model: MODEL,
        n: MOST,
        image_id: now.picture?.id,
        strict_image: now.picture ? true : null,
      }),
      signal: given,
    });
  try {
    return await ask();
  } catch (error) {
    if (error.code !== "picture_not_found" || !now.picture?.blob) throw error;
    await send(now.picture, given); // the server has forgotten it
    return ask();
  }
}

function nothingHeard({ dbfs, peak }) {
  if (peak === 0)
    return new Trouble(
      "The microphone gives no sound at all.",
      "Check that it is not muted and that the right one is chosen, then press Say it again.",
    );
  if (dbfs < QUIET_DBFS)
    return new Trouble("This was too quiet to understand.", "Come closer to the microphone, then press Say it again.");
  return new Trouble("No speech was heard.", "Press Say it again and speak towards the microphone.");
}

function list() {
  const items = now.alternatives.map(itemOf);
  items.forEach((item, place) => item.firstChild.addEventListener("click", () => choose(place)));
  $("alternatives").replaceChildren(...items);
  $("doubts").replaceChildren();
  show("list");
  const [best, ...others] = now.alternatives;
  tell(`Heard: ${best.display} ${others.length ? `There are ${others.length} other choices.` : "There is no other choice."}`);
}

function doubt(sentence, next) {
  const box = document.createElement("p");
  box.className = "doubt";
  box.textContent = `${sentence} ${next}`;
  $("doubts").append(box);
  tell(`${sentence} ${next}`);
}

function doubtSound({ dbfs, clipped }) {
  if (clipped > CLIPPED)
    doubt("This was too loud, and words may be wrong.", "If they are, move back a little and say it again.");
  else if (dbfs < QUIET_DBFS)
    doubt("This was very quiet, and words may be wrong.", "If they are, come closer and say it again.");
}

// Told behind the list, so that nobody waits for it.
async function doubtPicture(alternatives) {
  if (!now.picture) return;
  const texts = alternatives.map(({ text }) => text);
  const json = { model: MODEL, texts, image_id: now.picture.id };
  let fit;
  try {
    fit = await server.ask("/v1/fit", { method: "POST", json, again: 0 });
  } catch (error) {
    return console.warn(error); // the list is right without, and there is nothing to do about it
  }
  if (now.state !== "list" || now.alternatives !== alternatives) return;
  if (fit.compared >= LEAST_COMPARED && fit.better > MOST_BETTER * fit.compared)
    doubt("This may be the wrong picture: most others fit better.", "If it is, press Change the picture. What you said is kept.");
}

// -- the sentence ---------------------------------------------------------------------------------------------

function choose(place) {
  finish(now.alternatives[place].display, place ? "picked" : "confirmed", place);
}

function finish(text, how, rank) {
  now.result = text;
  note(text, how, rank);
  $("result").textContent = text;
  show("done");
  tell(`You said: ${text}`);
}

function note(reference, how, rank) {
  const seconds = (performance.now() - effort.since) / 1000;
  const { recording, picture, alternatives: shown } = now;
  keeping.note({ recording, picture, shown, reference, how, rank, seconds, taps: effort.taps });
}

function undo() {
  keeping.takeBack();
  if (now.alternatives.length) show("list");
  else type($("typed").value);
  say("Undone.");
}

function none() {
  note("", "none");
  now.isNone = true;
  show("speak");
  say("None was right. Say it again, perhaps in other words, or type it.");
}

function type(text) {
  $("typed").value = text;
  show("type");
}

function typed() {
  const text = $("typed").value.trim();
  if (text) finish(text, "typed");
  else say("There is no sentence yet. Type it, then press Done.");
}

async function copy() {
  try {
    await navigator.clipboard.writeText(now.result);
  } catch {
    getSelection().selectAllChildren($("result"));
    return say("The sentence is marked. Copy it with the keys or the menu of your device.");
  }
  say("Copied.");
}

function showBig() {
  $("big-text").textContent = now.result;
  openDialog($("big"), $("big-text"));
}

// -- settings -------------------------------------------------------------------------------------------------

function openDialog(dialog, focus) {
  now.since = performance.now();
  dialog.showModal();
  focus.focus();
  scanner.restart();
}

function showSettings() {
  for (const button of document.querySelectorAll("[data-setting]"))
    button.setAttribute("aria-checked", settings[button.dataset.setting]);
  $("pace").textContent = `A choice stays lit for ${settings.pace} seconds`;
  $("slower").disabled = settings.pace >= PACES.at(-1);
  $("faster").disabled = settings.pace <= PACES[0];
  keeping.show();
}

function set(name, value) {
  settings[name] = value;
  saveSettings(settings);
  if (!settings.consent) keeping.stop();
  showSettings();
  if (name !== "oneSwitch" && name !== "pace") return;
  if (settings.oneSwitch) scanner.start(settings.pace);
  else scanner.stop();
}

function pace(step) {
  const at = PACES.findIndex((seconds) => seconds >= settings.pace);
  set("pace", PACES[Math.max(0, Math.min(PACES.length - 1, at + step))]);
}

// -- keys and buttons -----------------------------------------------------------------------------------------

function onKey(event) {
  if (event.repeat || event.altKey || event.ctrlKey || event.metaKey) return;
  const isBack = event.key === "Escape";
  if (isBack && settings.oneSwitch) return set("oneSwitch", false);
  if (!settings.keys || tooSoon() || document.querySelector("dialog[open]")) return;
  if (!isBack && event.target.closest?.("input, textarea")) return;
  if (isBack) back();
  else if (event.key === " " && !event.target.closest?.("button")) space(event);
  else if (now.state === "list" && now.alternatives[Number(event.key) - 1]) choose(Number(event.key) - 1);
}

function space(event) {
  if (!["speak", "listening"].includes(now.state)) return;
  event.preventDefault();
  if (now.state === "speak") record();
  else stop();
}

const BACK = {
  choose: () => now.before && now.before !== "token" && leaveChoosing(),
  speak: () => change(),
  listening: putAside,
  working: () => now.abort?.abort(),
  list: () => show("speak"),
  type: () => show(now.alternatives.length ? "list" : "speak"),
  done: undo,
  trouble: leaveTrouble,
};

function leaveChoosing() {
  if (!now.again) show("speak");
  else show(now.alternatives.length ? "list" : "trouble");
}

// What was said is not lost by it.
function leaveTrouble() {
  if (now.alternatives.length) return show("list");
  if (now.recording) now.aside = now.recording;
  show("speak");
}

function back() {
  BACK[now.state]?.();
}

const PRESSED = {
  "open-settings": () => openDialog($("settings"), $("settings-title")),
  upload: () => $("picture-file").click(),
  "open-camera": () => camera.open().then(() => scanner.restart(), (error) => trouble(cameraTrouble(error))),
  take: async () => bring(await camera.take(), "from the camera"),
  "no-picture": () => pick(null),
  earlier: () => turnTo(gallery.page - 1),
  more: () => turnTo(gallery.page + 1),
  change,
  record,
  "back-to-list": () => {
    keeping.takeBack();
    show("list");
  },
  "send-kept": () => useRecording(now.aside),
  write: () => type(""),
  sound: () => $("sound-file").click(),
  stop,
  discard: putAside,
  cancel: () => now.abort?.abort(),
  again: () => record(),
  type: () => type(now.alternatives[0].display),
  none,
  play: () => voice.play(now.recording.wav),
  "typed-done": typed,
  "typed-back": back,
  "show-big": showBig,
  copy,
  "speak-aloud": () => voice.speak(now.result),
  next: () => {
    forget();
    show("choose");
    say("");
  },
  same: () => {
    forget();
    begin();
  },
  undo,
  retry: () => now.retry(),
  "trouble-again": () => record(),
  "trouble-type": () => type(""),
  "trouble-sound": () => $("sound-file").click(),
  "trouble-play": () => voice.play(now.recording.wav),
  "trouble-back": back,
  slower: () => pace(1),
  faster: () => pace(-1),
  forget: () => keeping.askSurely(true),
  "forget-surely": () => keeping.deleteAll(),
};

function cameraTrouble(error) {
  return error instanceof DOMException
    ? new Trouble("The camera cannot be used.", "Allow the camera for this page and check that no other program uses it. Or upload a picture.")
    : error;
}

for (const [id, action] of Object.entries(PRESSED)) $(id).addEventListener("click", action);
for (const button of document.querySelectorAll("[data-setting]"))
  button.addEventListener("click", () => set(button.dataset.setting, !settings[button.dataset.setting]));
for (const button of document.querySelectorAll("[data-close]"))
  button.addEventListener("click", () => button.closest("dialog").close());
for (const dialog of document.querySelectorAll("dialog"))
  dialog.addEventListener("close", () => {
    now.since = performance.now();
    scanner.restart();
  });
onFile($("picture-file"), (file) => bring(file, file.name));
onFile($("sound-file"), (file) => useRecording({ wav: file }));
$("speaker").addEventListener("change", () => set("speaker", $("speaker").value.trim().replace(/[^\w.-]+/g, "-")));
addEventListener("keydown", onKey);
addEventListener("beforeunload", (event) => now.state === "listening" && event.preventDefault());

function onFile(input, use) {
  input.addEventListener("change", () => {
    const [file] = input.files;
    input.value = "";
    if (file) use(file);
  });
}

showSettings();
if (settings.oneSwitch) scanner.start(settings.pace);
open();
