/* What the page does by itself: its address, the hint for newcomers, and names for what gradio leaves unnamed. */
window.negmerge = {
  /* The address as it was called: the first tab writes itself into it before anything is restored. */
  asked: window.location.search,
  /* Whether what it asks for has been restored: until then the address stays as it was called, for who reloads. */
  arrived: false,
  /* How many numbered requests it has sent. */
  sent: 0,
  /* Writes the controls into the address, without a new entry in the history; what is as at first is left out. */
  remember(known, [pool, candidates, rule, scale, keep, buffers, ...dials]) {
    const address = new URL(window.location), query = address.searchParams;
    const put = (name, value, first) => (value === first ? query.delete(name) : query.set(name, value));
    known.dials.forEach(([, name]) => query.delete(name));
    put('pool', pool, known.pool);
    const all = document.querySelectorAll('#nm-picker input[type=checkbox]').length;
    put('candidates', (candidates || []).length === all ? null : (candidates || []).join(','), null);
    put('rule', rule, known.rule);
    put('scale', scale, 0);
    put('keep', keep, known.keep);
    put('buffers', buffers, known.buffers);
    known.dials.forEach(([owner, name, first], place) => { if (owner === rule) put(name, dials[place], first); });
    history.replaceState(history.state, '', address);
  },
  /* Called when all but the tab is restored; groups of boxes are named for who hears them: gradio only draws names. */
  arrive() {
    this.arrived = true;
    for (const {props} of window.gradio_config.components)
      document.querySelector(`fieldset[id="${props.elem_id}"]`)?.setAttribute('aria-label', props.label);
    return [this.asked];
  },
  rememberTab(tab, first) {
    if (!this.arrived) return;
    const address = new URL(window.location);
    if (tab === first) address.searchParams.delete('tab'); else address.searchParams.set('tab', tab);
    history.replaceState(history.state, '', address);
  },
  /* Three steps for who comes for the first time; once closed they stay away, and nothing else is kept. */
  hint(element) {
    const hint = element.querySelector('#nm-hint');
    try { hint.hidden = localStorage.getItem('negmerge-hint') === 'closed'; } catch { hint.hidden = false; }
    element.addEventListener('click', event => {
      if (!event.target.closest('#nm-hint-close')) return;
      hint.hidden = true;
      try { localStorage.setItem('negmerge-hint', 'closed'); } catch { /* then it shows again next time */ }
    });
  },
};
