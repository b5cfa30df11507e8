// Plays what was said, and speaks sentences aloud with a voice of the device: no text leaves for another.

export class Voice {
  constructor(say) {
    this.say = say;
    this.player = new Audio();
  }

  hush() {
    this.player.pause();
    globalThis.speechSynthesis?.cancel();
  }

  play(sound) {
    const isPlaying = !this.player.paused;
    this.hush();
    if (isPlaying) return;
    URL.revokeObjectURL(this.player.src);
    this.player.src = URL.createObjectURL(sound);
    this.player.play().catch(() => this.say("The recording cannot be played here."));
  }

  speak(text) {
    this.hush();
    const voices = (globalThis.speechSynthesis?.getVoices() ?? []).filter((voice) => voice.localService);
    if (!voices.length) return this.say("This device has no voice. Show the sentence big instead.");
    const speech = new SpeechSynthesisUtterance(text);
    speech.voice = voices.find((voice) => voice.lang.startsWith("en")) ?? voices[0];
    speechSynthesis.speak(speech);
  }
}
