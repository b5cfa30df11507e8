// Keeps what was said and chosen, where the server offers it and the speaker agrees.

import { formOf, Trouble } from "./api.js";
import { madeUpName, saveSettings } from "./settings.js";

const PATH = "/v1/corrections";
const $ = (id) => document.getElementById(id);

export class Keeping {
  constructor(server, settings, say) {
    Object.assign(this, { server, settings, say, offer: { enabled: false } });
    Object.assign(this, { noted: null, unsent: [], sending: null, isLate: false });
  }

  async open() {
    try {
      this.offer = await this.server.ask(PATH);
    } catch {
      this.offer = { enabled: false };
    }
    this.show();
  }

  get isOn() {
    return this.offer.enabled && this.settings.consent;
  }

  show() {
    const { settings, offer } = this;
    if (settings.consent && !settings.speaker) {
      settings.speaker = madeUpName();
      saveSettings(settings);
    }
    const days = offer.retention_days ? `for ${offer.retention_days} days` : "until you delete them";
    $("keeping").hidden = !offer.enabled;
    $("keeping-text").textContent =
      `Switched on, your recordings, the picture's number and what you choose are kept on this server ${days}. ` +
      "They are used to make it understand you better. You can stop at any time and delete them.";
    $("speaker").value = settings.speaker;
    $("kept").textContent = this.isOn
      ? `What you say and choose is kept under the name ${settings.speaker}, ${days}. You can stop this in Settings.`
      : "Your recordings are not kept.";
    $("late").hidden = this.isOn || !this.isLate;
    this.askSurely(false);
  }

  // Whether one was kept that was on its way when the speaker stopped this.
  setLate(isLate) {
    this.isLate = isLate;
    $("late").hidden = this.isOn || !isLate;
  }

  // Nothing is sent before the speaker goes on, so that Undo undoes it.
  note(correction) {
    this.noted = this.isOn && correction.recording ? { ...correction, speaker: this.settings.speaker } : null;
  }

  takeBack() {
    this.noted = null;
  }

  // The newest is sent first: one that the server always fails on holds up no other.
  async settle() {
    if (this.noted) this.unsent = [this.noted, ...this.unsent.filter(({ recording }) => recording !== this.noted.recording)];
    this.noted = null;
    if (!this.isOn) this.unsent = [];
    this.sending ??= this.sendAll().finally(() => (this.sending = null));
    await this.sending;
  }

  // Nothing is sent any more. What is on its way is not broken off: the server may have it whole, and goes on with it.
  stop() {
    this.noted = null;
    this.unsent = [];
    this.giveUp?.abort();
  }

  // What is refused for good is given up; what may be taken later comes after the others, with the next sentence.
  async sendAll() {
    while (this.unsent.length) {
      const correction = this.unsent.shift();
      this.giveUp = new AbortController();
      const { signal } = this.giveUp;
      try {
        await this.sendOne(correction, signal);
        if (!this.isOn) this.setLate(true);
      } catch (error) {
        if (!(error instanceof Trouble) && error.name !== "AbortError") throw error;
        if (signal.aborted) {
          this.say(""); // and no more that the server is asked again
          continue;
        }
        if (error.passes) {
          this.putBack(correction);
          return this.say(`A sentence is not kept yet: ${error.message} It is tried again with the next one.`);
        }
        this.say(`A sentence cannot be kept. ${error.message} ${error.next}`);
      }
    }
  }

  // Of one recording, the server keeps what it is told last.
  putBack(correction) {
    if (!this.unsent.some(({ recording }) => recording === correction.recording)) this.unsent.push(correction);
  }

  async sendOne(correction, signal) {
    try {
      await this.send(correction, { image_id: correction.picture?.id }, signal);
    } catch (error) {
      if (error.code !== "picture_not_found") throw error;
      await this.send(correction, { image: await this.bytesOf(correction.picture) }, signal);
    }
  }

  // Its file, where the server keeps only what it computed of it.
  async bytesOf({ blob, url, name }) {
    const content = blob ?? (await this.server.bytes(url));
    return new File([content], name, { type: content.type });
  }

  send({ recording, picture, shown, ...told }, image, signal) {
    const form = formOf({ ...told, ...image, file: recording.wav, shown: JSON.stringify(shown), consent: true });
    return this.server.ask(PATH, { method: "POST", form, signal, whole: true });
  }

  askSurely(asks) {
    $("forget").hidden = asks;
    $("forget-surely").hidden = !asks;
    if (asks) $("forget-surely").focus();
  }

  async deleteAll() {
    const { speaker } = this.settings;
    this.askSurely(false);
    $("forget").focus();
    $("forgotten").textContent = "They are being deleted.";
    this.stop();
    // What is on its way is kept or refused first: a deletion before would miss it. A defect is told by `settle`.
    await this.sending?.catch(() => {});
    try {
      await this.server.ask(`${PATH}/speakers/${encodeURIComponent(speaker)}`, { method: "DELETE" });
      $("forgotten").textContent = "They are deleted.";
      this.setLate(false);
    } catch (error) {
      $("forgotten").textContent = `They are not deleted: ${error.message}`;
    }
  }
}
