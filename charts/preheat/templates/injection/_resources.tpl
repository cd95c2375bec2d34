{{- /*
What a pod uses, and what the loader may, as preheat_operator.loader_resources has it.
*/ -}}
{{- define "preheat.injection.resources" }}
  # What every container uses, in thousandths of a processor and in bytes: the pod as a whole, the recipe, init, apps.
  - name: uses
    expression: >-
      ([object.spec, variables.recipe] + variables.init + variables.apps).map(holder,
        ['requests', 'limits'].transformMapEntry(_, kind, {kind: ['cpu', 'memory'].transformMapEntry(_, name, {name:
          int(quantity(holder.?resources[?kind][?name].or(holder.?resources.?limits[?name]).orValue('0'))
            .asApproximateFloat() * (name == 'cpu' ? 1000.0 : 1.0) + 0.5)})}))
  - name: initUses
    expression: variables.uses.slice(2, 2 + variables.init.size())
  - name: appUses
    expression: variables.uses.slice(2 + variables.init.size(), variables.uses.size())
  - name: asWhole
    expression: >-
      variables.uses.slice(0, 1).exists(use, use.exists(kind, use[kind].exists(name, use[kind][name] > 0)))
  - name: counted
    expression: >-
      variables.asWhole ? variables.uses.slice(0, 1) : variables.uses.slice(2, variables.uses.size())
  - name: bestEffort
    expression: "!variables.counted.exists(use, use.exists(kind, use[kind].exists(name, use[kind][name] > 0)))"
  - name: guaranteed
    expression: >-
      !variables.bestEffort && variables.counted.all(use, ['cpu', 'memory'].all(name,
        use.limits[name] > 0 && use.requests[name] == use.limits[name]))
  # What the loader can use without raising what the pod counts for; -1: no limit. Sidecars run beside what follows them.
  - name: ceilings
    expression: >-
      ['requests', 'limits'].transformMapEntry(_, kind, {kind: ['cpu', 'memory'].transformMapEntry(_, name, {name:
        has(object.spec.resources) && name in object.spec.resources[?kind].orValue({}) ? variables.uses[0][kind][name]
        : kind == 'limits' && variables.appUses.exists(use, use.limits[name] == 0) ? -1
        : ([variables.appUses.map(use, use[kind][name]).sum()]
          + variables.initUses.transformList(i, use, use[kind][name] - variables.initUses.transformList(k, beside,
            k >= i && variables.init[k].?restartPolicy.orValue('') == 'Always', beside[kind][name]).sum())).max()})})
  - name: wanted
    expression: variables.recipe.resources
  - name: limits
    expression: >-
      ['cpu', 'memory'].filter(name, name in variables.wanted.limits || variables.guaranteed)
        .transformMapEntry(_, name, {name: !(name in variables.wanted.limits) ? variables.ceilings.limits[name]
          : variables.ceilings.limits[name] < 0 ? variables.uses[1].limits[name]
          : [variables.uses[1].limits[name], variables.ceilings.limits[name]].min()})
  - name: requests
    expression: >-
      variables.guaranteed ? variables.limits
      : ['cpu', 'memory'].filter(name, name in variables.limits || name in variables.wanted.requests)
        .transformMapEntry(_, name, {name: !(name in variables.wanted.requests) ? 0
          : [variables.uses[1].requests[name], variables.ceilings.requests[name],
             variables.limits[?name].orValue(variables.uses[1].requests[name])].min()})
  # As the recipe writes them, if they were not lowered.
  - name: resources
    expression: >-
      {'requests': variables.requests, 'limits': variables.limits}.transformMap(kind, amounts,
        [variables.guaranteed ? 'limits' : kind].map(from, amounts.transformMap(name, amount,
          name in variables.wanted[from] && amount == variables.uses[1][from][name] ? variables.wanted[from][name]
          : name == 'cpu' ? string(amount) + 'm'
          : amount > 0 && amount % 1048576 == 0 ? string(amount / 1048576) + 'Mi' : string(amount)))[0])
{{- end }}
