// What the speaker has set, kept in the browser.

const KEY = "earsight-settings";
const DEFAULTS = {
  oneSwitch: false,
  pace: 2, // seconds that a choice stays lit
  keys: true,
  suppress: false,
  gain: false,
  consent: false,
  speaker: "",
};

export function loadSettings() {
  try {
    return { ...DEFAULTS, ...JSON.parse(localStorage.getItem(KEY)) };
  } catch {
    return { ...DEFAULTS }; // storage is switched off, or holds something else
  }
}

export function saveSettings(settings) {
  try {
    localStorage.setItem(KEY, JSON.stringify(settings));
  } catch {
    // Storage is switched off: they last as long as the page.
  }
}

export function madeUpName() {
  return `speaker-${crypto.getRandomValues(new Uint32Array(1))[0].toString(36)}`;
}
